# SPDX-License-Identifier: Apache-2.0
"""Measures memory and operations of a rank on any machine, by stepping the real model on fake tensors."""

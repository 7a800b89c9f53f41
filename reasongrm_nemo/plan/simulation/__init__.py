# SPDX-License-Identifier: Apache-2.0
"""A rank's memory and work, measured on any machine: the real actor takes a step on tensors without data."""

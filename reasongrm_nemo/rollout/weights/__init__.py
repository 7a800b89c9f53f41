# SPDX-License-Identifier: Apache-2.0
"""Transfers new weights to the servers."""

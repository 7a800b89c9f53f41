# SPDX-License-Identifier: Apache-2.0
"""Starts, places and ends processes, and passes them their orders."""

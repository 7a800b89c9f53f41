# SPDX-License-Identifier: Apache-2.0
"""Starts, checks and restarts the vLLM server process."""

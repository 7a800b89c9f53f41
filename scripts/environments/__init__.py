# SPDX-License-Identifier: Apache-2.0
"""Builds the environments; see scripts/setup_env.py."""

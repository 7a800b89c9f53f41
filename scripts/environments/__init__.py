# SPDX-License-Identifier: Apache-2.0
"""Building the environments; see scripts/setup_env.py."""

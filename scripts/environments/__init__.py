# SPDX-License-Identifier: Apache-2.0
"""Building the two environments; see scripts/setup_env.py."""

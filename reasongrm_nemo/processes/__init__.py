# SPDX-License-Identifier: Apache-2.0
"""Where processes run, what they are told, how they end."""

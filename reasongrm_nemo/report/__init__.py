# SPDX-License-Identifier: Apache-2.0
"""What the user sees: progress while it runs, tables at the end."""

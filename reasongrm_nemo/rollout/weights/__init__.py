# SPDX-License-Identifier: Apache-2.0
"""How new weights reach the servers."""

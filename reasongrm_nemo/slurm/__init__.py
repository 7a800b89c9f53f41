# SPDX-License-Identifier: Apache-2.0
"""Jobs on a cluster: the chain, its status, the checks before a start."""

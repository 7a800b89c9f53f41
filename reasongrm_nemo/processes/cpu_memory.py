# SPDX-License-Identifier: Apache-2.0
"""How processes that compute on a CPU take their memory."""

from __future__ import annotations

KEEPS_FREED = {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776"}
"""Environment variables with which glibc keeps what is freed for what is allocated next.

By default a large tensor's pages go back to the kernel with it, and the next tensor's are zeroed anew: half
of a weight sync of 538 MB, and 3 to 7 % of SmolLM2's forward and backward (benchmarks/results.md). It costs
memory: 9 % of what a step of SmolLM2 adds to a rank, 2 % of its server.
"""

# SPDX-License-Identifier: Apache-2.0
"""Memory allocation settings for processes that compute on a CPU."""

from __future__ import annotations

KEEPS_FREED = {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776"}
"""Environment variables that make glibc keep freed memory for later allocations.

By default, freeing a large tensor returns its pages to the kernel, and allocating the next one zeroes new
pages, which takes half the time of a 538 MB weight sync, and 3 to 7 % of SmolLM2's forward and backward
(benchmarks/results.md). Keeping memory costs 9 % of what a step of SmolLM2 adds to a rank, 2 % of its server.
"""

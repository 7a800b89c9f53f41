# SPDX-License-Identifier: Apache-2.0
"""Reward shaping beyond the outcome reward; not in the paper, and without effect on which groups are kept."""

from __future__ import annotations


def overlong_penalty(length: int, limit: int, buffer: int) -> float:
    """DAPO's soft penalty for responses close to the length limit (Yu et al. 2025, eq. 13).

    0 up to ``limit - buffer`` tokens, then decreasing linearly to -1 at ``limit``.

    Args:
        length: tokens of the response.
        limit: longest allowed response, in tokens.
        buffer: number of tokens before the limit over which the penalty grows; 0 disables it.

    Raises:
        ValueError: the buffer is longer than the limit.
    """
    if not 0 <= buffer <= limit:
        raise ValueError(f"a buffer of {buffer} tokens does not fit into {limit}")
    if buffer == 0:
        return 0.0
    return -min(max(length - (limit - buffer), 0) / buffer, 1.0)

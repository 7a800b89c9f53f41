# SPDX-License-Identifier: Apache-2.0
"""Reward shaping beyond the outcome. None of it is in the paper; none touches which groups are kept."""

from __future__ import annotations


def overlong_penalty(length: int, limit: int, buffer: int) -> float:
    """DAPO's soft punishment of responses that come near the limit (Yu et al. 2025, eq. 13).

    0 up to ``limit - buffer`` tokens, then falling linearly to -1 at ``limit``.

    Args:
        length: tokens of the response.
        limit: the longest response.
        buffer: tokens before it over which the penalty grows; 0 for none.

    Raises:
        ValueError: the buffer is longer than the limit.
    """
    if not 0 <= buffer <= limit:
        raise ValueError(f"a buffer of {buffer} tokens does not fit into {limit}")
    if buffer == 0:
        return 0.0
    return -min(max(length - (limit - buffer), 0) / buffer, 1.0)

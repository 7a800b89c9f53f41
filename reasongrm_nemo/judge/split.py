# SPDX-License-Identifier: Apache-2.0
"""Finds the token at which a response's answer begins (R' and a of section 3.3)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from reasongrm_nemo.judge.think import THINK_CLOSE


def answer_start(pieces: Sequence[str]) -> int:
    """Index of the first answer token; `len(pieces)` if there is no answer.

    The reasoning ends with the last `</think>`, including a token that extends beyond the tag.  Without a
    tag, there is no separate answer, and R* is undefined, as the paper names no other boundary.

    Args:
        pieces: the text of each token, including special tokens, without the end-of-turn token.  Incomplete
            characters may be replacement characters.
    """
    close = "".join(pieces).rfind(THINK_CLOSE)
    if close < 0:
        return len(pieces)
    ends = list(accumulate(len(piece) for piece in pieces))
    # The first answer token follows the first token that ends at or after the end of the tag.
    return min(bisect_left(ends, close + len(THINK_CLOSE)) + 1, len(pieces))

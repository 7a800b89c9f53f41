# SPDX-License-Identifier: Apache-2.0
"""Where a response's reasoning ends and its answer begins, in tokens (R' and a of section 3.3)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from reasongrm_nemo.judge.think import THINK_CLOSE


def answer_start(pieces: Sequence[str]) -> int:
    """Index of the first answer token; `len(pieces)` when there is no answer.

    The reasoning is everything up to and including the last `</think>`, and a token that straddles that cut.
    Without one there is no answer apart from the reasoning, so that R* is not defined: where else to cut, the
    paper does not say.

    Args:
        pieces: the text of each token, special tokens included, without the end-of-turn token.  Pieces of
            broken characters may be replacement characters: only their order matters.
    """
    close = "".join(pieces).rfind(THINK_CLOSE)
    if close < 0:
        return len(pieces)
    ends = list(accumulate(len(piece) for piece in pieces))
    # The first token that begins at or after the cut is the one after the first token that ends there.
    return min(bisect_left(ends, close + len(THINK_CLOSE)) + 1, len(pieces))

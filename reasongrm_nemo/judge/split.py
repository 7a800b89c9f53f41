# SPDX-License-Identifier: Apache-2.0
"""Where a response's reasoning ends and its answer begins, in tokens (R' and a of section 3.3)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

from reasongrm_nemo.judge.parse import POLICIES, THINK_CLOSE, VERDICT


def answer_start(pieces: Sequence[str], think_close: str = THINK_CLOSE, policy: str = "strict_last") -> int:
    """Index of the first answer token; `len(pieces)` when there is no answer.

    The reasoning is everything up to and including the last `think_close`.  Without one, under a policy that
    reads a verdict anyway, the answer is from the start of the line that holds the last verdict; under
    `strict_last` all is reasoning.  (The paper does not say where to cut.)

    A token that straddles the cut belongs to the reasoning when the cut is `think_close`, and to the answer
    when it is the start of a line.

    Args:
        pieces: the text of each token, special tokens included, without the end-of-turn token.  Pieces of
            broken characters may be replacement characters: only their order matters.
        think_close: the text that ends the reasoning.
        policy: as for `parse_verdict`.

    Raises:
        ValueError: unknown policy.
    """
    if policy not in POLICIES:
        raise ValueError(f"Unknown verdict policy '{policy}'; known are {', '.join(POLICIES)}")
    text = "".join(pieces)
    ends = list(accumulate(len(piece) for piece in pieces))
    close = text.rfind(think_close)
    if close >= 0:
        # The first token that begins at or after the cut is the one after the first token that ends there.
        return min(bisect_left(ends, close + len(think_close)) + 1, len(pieces))
    verdicts = [] if policy == "strict_last" else list(VERDICT.finditer(text))
    if not verdicts:
        return len(pieces)
    line = text.rfind("\n", 0, verdicts[-1].start()) + 1
    return bisect_right(ends, line)

# SPDX-License-Identifier: Apache-2.0
"""Where a response's reasoning ends and its answer begins, in tokens (R' and a of section 3.3)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

from reasongrm_nemo.judge.parse import VERDICT, check_policy
from reasongrm_nemo.judge.think import THINK_CLOSE, left_open


def answer_start(pieces: Sequence[str], policy: str = "strict_last", opened: bool = False) -> int:
    """Index of the first answer token; `len(pieces)` when there is no answer.

    The reasoning is everything up to and including the last `</think>`.  Without one, under a policy that
    reads a verdict anyway, the answer is from the start of the line that holds the last verdict; under
    `strict_last` all is reasoning, and under `last` where `<think>` was opened.  (The paper does not say
    where to cut.)

    A token that straddles the cut belongs to the reasoning when the cut is `</think>`, and to the answer
    when it is the start of a line.

    Args:
        pieces: the text of each token, special tokens included, without the end-of-turn token.  Pieces of
            broken characters may be replacement characters: only their order matters.
        policy: as for `parse_verdict`.
        opened: as for `parse_verdict`.

    Raises:
        ValueError: unknown policy.
    """
    check_policy(policy)
    text = "".join(pieces)
    ends = list(accumulate(len(piece) for piece in pieces))
    close = text.rfind(THINK_CLOSE)
    if close >= 0:
        # The first token that begins at or after the cut is the one after the first token that ends there.
        return min(bisect_left(ends, close + len(THINK_CLOSE)) + 1, len(pieces))
    all_reasoning = policy == "strict_last" or (policy == "last" and (opened or left_open(text)))
    verdicts = [] if all_reasoning else list(VERDICT.finditer(text))
    if not verdicts:
        return len(pieces)
    line = text.rfind("\n", 0, verdicts[-1].start()) + 1
    return bisect_right(ends, line)

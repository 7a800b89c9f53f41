# SPDX-License-Identifier: Apache-2.0
"""Named scoring rules of published evaluators.

Sources, at the commits named in docs/evaluation.md:

- `paper` (ours, the default): each judgement is parsed by the policy recorded in its row, by default `last`;
  everything but a right verdict is wrong.
- `last`, `strict_last` (ours): the same credits, but every judgement is parsed by this policy.
- `rm_r1`: RM-R1's `eval/reward-bench/rewardbench/generative.py:577-585` (both verdicts present is an error),
  `eval/*/scripts/run_generative.py` (an error is 0, a tie 0.5), and `eval/RM-Bench/scripts/
  process_final_result.py:25-32` (RM-Bench's aggregation as released, see `rm_bench`).
- `rewardbench`: reward-bench's `rewardbench/generative.py:493-498` (`[[A]]` anywhere wins) and
  `scripts/run_generative.py:256-257, 370-371` (no verdict is worth 0.5).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from reasongrm_nemo.errors import UserError


@dataclass(frozen=True)
class Policy:
    """How a judge's text is turned into credit.

    `parser` is a policy of `judge.parse_verdict`, or None for the row's; `unparsable` and `tie` are the
    credits of a judgement without a verdict and of a declared tie; `released_rm_bench` uses RM-R1's RM-Bench
    aggregation with its bug.  Equal scores of a scalar reward model are worth 0 under every policy, as in all
    three benchmarks.
    `vote` combines several judgements of a pair in one order: their `mean` credit, or the credit of their
    `majority` (a draw is a tie); the two orders of a pair are averaged either way.
    """

    name: str
    parser: str | None
    unparsable: float
    tie: float
    released_rm_bench: bool = False
    vote: str = "mean"


VOTES = ("mean", "majority")

SCORING_RULES = {
    policy.name: policy
    for policy in (
        Policy("paper", None, unparsable=0.0, tie=0.0),
        Policy("last", "last", unparsable=0.0, tie=0.0),
        Policy("strict_last", "strict_last", unparsable=0.0, tie=0.0),
        Policy("rm_r1", "rm_r1", unparsable=0.0, tie=0.5, released_rm_bench=True),
        Policy("rewardbench", "rewardbench", unparsable=0.5, tie=0.5),
    )
}


def get_policy(name: str | Policy, vote: str | None = None) -> Policy:
    """The policy of this name (a `Policy` is returned as it is), with another vote if given.

    Raises:
        UserError: the policy or the vote is unknown.
    """
    if vote is not None:
        if vote not in VOTES:
            raise UserError(f"unknown vote '{vote}'; known are {', '.join(VOTES)}")
        return replace(get_policy(name), vote=vote)
    if isinstance(name, Policy):
        return name
    if name not in SCORING_RULES:
        raise UserError(
            f"unknown policy '{name}'{nearest(name, SCORING_RULES)}; known are {', '.join(SCORING_RULES)}"
        )
    return SCORING_RULES[name]


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint " (did you mean 'x'?)", or empty if no known name is similar."""
    names = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    return f" (did you mean '{names[close[0]]}'?)" if close else ""

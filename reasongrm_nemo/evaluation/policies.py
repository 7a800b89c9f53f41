# SPDX-License-Identifier: Apache-2.0
"""Named sets of the rules in which published evaluators differ.

Sources, at the commits docs/evaluation.md names:

- `paper` (ours, the default): each judgement is read by the policy of the model that wrote it, as its row
  says, else by `last`; whatever is not a right verdict is wrong.
- `last`, `strict_last` (ours): the same credits, each judgement read by that policy whatever its row says.
- `rm_r1`: RM-R1's `eval/reward-bench/rewardbench/generative.py:577-585` (both verdicts present is an error),
  `eval/*/scripts/run_generative.py` (an error is 0, a tie 0.5), and `eval/RM-Bench/scripts/
  process_final_result.py:25-32` (RM-Bench's aggregation as released, see `rm_bench`).
- `rewardbench`: reward-bench's `rewardbench/generative.py:493-498` (`[[A]]` anywhere wins) and
  `scripts/run_generative.py:256-257, 370-371` (whatever is no verdict is worth 0.5).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from reasongrm_nemo.errors import UserError


@dataclass(frozen=True)
class Policy:
    """How a judge's text becomes credit.

    `parser` is a policy of `judge.parse_verdict`, or None for the row's; `unparsable` and `tie` are what a
    judgement without a verdict and one that calls a tie are worth; `released_rm_bench` takes RM-R1's RM-Bench
    aggregation with its fault.  Equal scores of a scalar reward model are worth 0 under each, as in all three
    benchmarks.
    `vote` says what several judgements of a pair in one order come to: their `mean` credit, or the credit of
    their `majority` (a draw is a tie); the two orders of a pair are averaged either way.
    """

    name: str
    parser: str | None
    unparsable: float
    tie: float
    released_rm_bench: bool = False
    vote: str = "mean"


VOTES = ("mean", "majority")

POLICIES = {
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
    """The policy of that name (a policy is itself), with another vote if one is given.

    Raises:
        UserError: no such policy, or no such vote.
    """
    if vote is not None:
        if vote not in VOTES:
            raise UserError(f"unknown vote '{vote}'; known are {', '.join(VOTES)}")
        return replace(get_policy(name), vote=vote)
    if isinstance(name, Policy):
        return name
    if name not in POLICIES:
        raise UserError(f"unknown policy '{name}'{nearest(name, POLICIES)}; known are {', '.join(POLICIES)}")
    return POLICIES[name]


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint " (did you mean 'x'?)", or nothing when no known name is near."""
    names = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    return f" (did you mean '{names[close[0]]}'?)" if close else ""

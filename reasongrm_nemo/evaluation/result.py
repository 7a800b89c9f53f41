# SPDX-License-Identifier: Apache-2.0
"""What scoring a verdict log gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reasongrm_nemo.evaluation.accuracy import Accuracy, combine
from reasongrm_nemo.evaluation.outcomes import SubsetOutcomes
from reasongrm_nemo.evaluation.policies import Policy


@dataclass(frozen=True)
class SubsetResult:
    """One subset: its accuracy, what became of its judgements, and how many items the benchmark has."""

    name: str
    accuracy: Accuracy
    judgements: int
    unparsable: int
    ties: int
    expected_items: int

    @classmethod
    def of(cls, name: str, accuracy: Accuracy, outcomes: SubsetOutcomes, expected: int) -> SubsetResult:
        """The result of a subset with these outcomes."""
        return cls(name, accuracy, outcomes.judgements, outcomes.unparsable, outcomes.ties, expected)


@dataclass(frozen=True)
class Result:
    """The scores of a benchmark under a policy.

    `scores` are the benchmark's published figures by name, in the order of its tables; one for which the
    log is too partial is None.  `notes` say what a reader must know to compare them.
    """

    benchmark: str
    policy: str
    scores: dict[str, Accuracy | None]
    subsets: list[SubsetResult]
    statuses: dict[str, int]
    notes: list[str]

    def values(self) -> dict[str, float]:
        """The scores alone, those that are known."""
        return {name: score.value for name, score in self.scores.items() if score and score.value is not None}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def mean(scores: Mapping[str, Accuracy | None], names: Sequence[str]) -> Accuracy | None:
    """The plain mean of the named scores, or None when one of them is unknown."""
    known = [score for name in names if (score := scores.get(name)) is not None]
    return combine([(1.0 / len(names), score) for score in known]) if len(known) == len(names) else None


def statuses(subsets: Mapping[str, SubsetOutcomes]) -> dict[str, int]:
    """How often each status occurs over all subsets, the most frequent first."""
    total: Counter[str] = Counter()
    for subset in subsets.values():
        total.update(subset.statuses)
    return dict(sorted(total.items(), key=lambda pair: (-pair[1], pair[0])))


def notes(rules: Policy, subsets: Sequence[SubsetResult]) -> list[str]:
    """A note on the vote, and one when the log's items are not as many as the benchmark's."""
    found = ["the majority of the samples of each order counts"] if rules.vote == "majority" else []
    off = [row for row in subsets if row.accuracy.items != row.expected_items]
    if off:
        first = off[0]
        found.append(
            f"not the whole benchmark: {len(off)} of the subsets here have another number of items than "
            f"published, the first being {first.name} with {first.accuracy.items} of {first.expected_items}"
        )
    return found

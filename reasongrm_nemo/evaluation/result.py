# SPDX-License-Identifier: Apache-2.0
"""The result of scoring a verdict log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reasongrm_nemo.evaluation.accuracy import Accuracy, combine
from reasongrm_nemo.evaluation.coverage import Coverage
from reasongrm_nemo.evaluation.outcomes import SubsetOutcomes
from reasongrm_nemo.evaluation.policies import Policy


@dataclass(frozen=True)
class SubsetResult:
    """One subset: its accuracy, the counts of its judgements, and the benchmark's number of items."""

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

    `scores` are the benchmark's published figures by name, in the order of its tables; None if the log lacks
    too much.  `notes` tell what matters for comparing them.  `truncated` is the share of judgements cut at
    the token limit; None if unknown.
    """

    benchmark: str
    policy: str
    scores: dict[str, Accuracy | None]
    subsets: list[SubsetResult]
    statuses: dict[str, int]
    notes: list[str]
    coverage: Coverage
    truncated: float | None = None

    def values(self) -> dict[str, float]:
        """The known scores as numbers."""
        return {name: score.value for name, score in self.scores.items() if score and score.value is not None}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def mean(scores: Mapping[str, Accuracy | None], names: Sequence[str]) -> Accuracy | None:
    """The plain mean of the named scores, or None when one of them is unknown."""
    known = [score for name in names if (score := scores.get(name)) is not None]
    return combine([(1.0 / len(names), score) for score in known]) if len(known) == len(names) else None


def statuses(subsets: Mapping[str, SubsetOutcomes]) -> dict[str, int]:
    """Counts of each status over all subsets, the most frequent first."""
    total: Counter[str] = Counter()
    for subset in subsets.values():
        total.update(subset.statuses)
    return dict(sorted(total.items(), key=lambda pair: (-pair[1], pair[0])))


def truncated(subsets: Mapping[str, SubsetOutcomes]) -> float | None:
    """Share of judgements cut at the token limit; None if no row has a finish reason."""
    ended = sum(subset.ended for subset in subsets.values())
    return sum(subset.truncated for subset in subsets.values()) / ended if ended else None


def notes(rules: Policy, covered: Coverage) -> list[str]:
    """Notes on the vote and on the log's coverage."""
    vote = ["scored by the majority of the samples in each order"] if rules.vote == "majority" else []
    return vote + covered.notes()

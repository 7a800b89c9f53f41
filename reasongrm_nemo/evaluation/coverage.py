# SPDX-License-Identifier: Apache-2.0
"""How much of a benchmark a log holds, counted in judgements: a score of a part is no score of the whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from reasongrm_nemo.evaluation.outcomes import PairOutcome, SubsetOutcomes

SHOWN = 3
"""So many subsets are named."""


@dataclass(frozen=True)
class Coverage:
    """What a log holds of a benchmark.

    Every pair is expected in as many orders, and in each as many samples, as the log has of any pair: one
    that judges some pairs in both orders lacks the second order of the others.

    Attributes:
        judgements: rows of the log.
        expected: rows of a log of the whole benchmark with these orders and samples.
        one_order: pairs judged in one order where others are judged in both.
        pairs: pairs judged.
        lacking: found and expected judgements of each subset that lacks some.
        extra: found and published items of each subset that has more.
    """

    judgements: int
    expected: int
    one_order: int
    pairs: int
    lacking: dict[str, tuple[int, int]] = field(default_factory=dict)
    extra: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def missing(self) -> str | None:
        """As "812 of 2,985 judgements", or None when nothing is missing."""
        return f"{self.judgements:,} of {self.expected:,} judgements" if self.lacking else None

    def notes(self) -> list[str]:
        """What a reader must know, nothing of a whole log."""
        said = []
        if self.lacking:
            parts = _named(f"{name} ({count:,} of {of:,})" for name, (count, of) in self.lacking.items())
            said.append(f"not the whole benchmark: {self.missing} are there; incomplete are {parts}")
        if self.one_order:
            said.append(
                f"{self.one_order:,} of {self.pairs:,} pairs are judged in one order only, the others in both"
            )
        if self.extra:
            parts = _named(
                f"{name} has {count:,} items, {of:,} as published" for name, (count, of) in self.extra.items()
            )
            said.append(f"more than the benchmark: {parts}")
        return said


def coverage(subsets: Mapping[str, SubsetOutcomes], published: Mapping[str, tuple[int, int]]) -> Coverage:
    """What a log holds.

    Args:
        subsets: its outcomes.
        published: items and pairs of each of the benchmark's subsets.
    """
    pairs = [pair for subset in subsets.values() for pair in _pairs(subset)]
    both = [0 < pair.rows_swapped < pair.rows for pair in pairs]
    samples = max(max(pair.rows_swapped, pair.rows - pair.rows_swapped) for pair in pairs)
    a_pair = samples * (2 if any(both) else 1)
    lacking, extra = {}, {}
    for name, (items, count) in published.items():
        subset = subsets.get(name, SubsetOutcomes())
        short = sum(max(0, a_pair - pair.rows) for pair in _pairs(subset))
        if short or sum(map(len, subset.items.values())) < count:
            lacking[name] = (subset.judgements, count * a_pair)
        elif len(subset.items) > items:
            extra[name] = (len(subset.items), items)
    total = sum(count for _, count in published.values()) * a_pair
    judged = sum(subset.judgements for subset in subsets.values())
    one_order = both.count(False) if any(both) else 0
    return Coverage(judged, total, one_order, len(pairs), lacking, extra)


def _pairs(subset: SubsetOutcomes) -> Iterable[PairOutcome]:
    return (pair for cells in subset.items.values() for pair in cells.values())


def _named(parts: Iterable[str]) -> str:
    """The first few, and how many more."""
    named = list(parts)
    if len(named) <= SHOWN:
        return ", ".join(named)
    more = len(named) - SHOWN
    return f"{', '.join(named[:SHOWN])} and {more} more subset{'s' * (more > 1)}"

# SPDX-License-Identifier: Apache-2.0
"""How much of a benchmark a log covers, in judgements: a partial score is not the benchmark's score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from reasongrm_nemo.evaluation.outcomes import PairOutcome, SubsetOutcomes

SHOWN = 3
"""Number of subsets to name."""


@dataclass(frozen=True)
class Coverage:
    """How much of a benchmark a log covers.

    Every pair is expected in as many orders and samples as the log has for any pair: a log that judges some
    pairs in both orders lacks the second order of the others.

    Attributes:
        judgements: rows of the log.
        expected: rows of a complete log with these orders and samples.
        one_order: pairs judged in only one order while others are judged in both.
        pairs: pairs judged.
        lacking: present and expected judgements of each incomplete subset.
        extra: present and published items of each subset that has too many.
    """

    judgements: int
    expected: int
    one_order: int
    pairs: int
    lacking: dict[str, tuple[int, int]] = field(default_factory=dict)
    extra: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def missing(self) -> str | None:
        """Text like "812 of 2,985 judgements", or None if nothing is missing."""
        return f"{self.judgements:,} of {self.expected:,} judgements" if self.lacking else None

    def notes(self) -> list[str]:
        """Notes for the reader; empty if the log is complete."""
        notes = []
        if self.lacking:
            parts = _named(f"{name} ({count:,} of {of:,})" for name, (count, of) in self.lacking.items())
            notes.append(f"not the whole benchmark: only {self.missing}; incomplete are {parts}")
        if self.one_order:
            notes.append(
                f"{self.one_order:,} of {self.pairs:,} pairs are judged in one order only, the others in both"
            )
        if self.extra:
            parts = _named(
                f"{name} has {count:,} items, {of:,} as published" for name, (count, of) in self.extra.items()
            )
            notes.append(f"more than the benchmark: {parts}")
        return notes


def coverage(subsets: Mapping[str, SubsetOutcomes], published: Mapping[str, tuple[int, int]]) -> Coverage:
    """Compute a log's coverage.

    Args:
        subsets: the log's outcomes.
        published: number of items and of pairs in each of the benchmark's subsets.
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
    """The first few names, and the number of the others."""
    named = list(parts)
    if len(named) <= SHOWN:
        return ", ".join(named)
    more = len(named) - SHOWN
    return f"{', '.join(named[:SHOWN])} and {more} more subset{'s' * (more > 1)}"

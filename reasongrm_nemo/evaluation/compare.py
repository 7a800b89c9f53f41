# SPDX-License-Identifier: Apache-2.0
"""Compares two runs on the same pairs: the pairs that only one gets right, and the scores' difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation.benchmarks import ScoredRun
from reasongrm_nemo.evaluation.outcomes import PairOutcome, SubsetOutcomes
from reasongrm_nemo.evaluation.registry import MODULES
from reasongrm_nemo.evaluation.resample import DRAWS, bootstrap, interval


@dataclass(frozen=True)
class McNemar:
    """McNemar's test on the pairs that exactly one of two judges gets right.

    `exact` is the two-sided binomial p-value; `mid_p` counts the observed outcome by half: less conservative,
    and the better choice for small counts (Fagerland, Lydersen and Laake 2013).
    """

    only_first: int
    only_second: int
    exact: float
    mid_p: float


def mcnemar(only_first: int, only_second: int) -> McNemar:
    """The test from its two counts; if both are zero, both p-values are 1."""
    total, fewer = only_first + only_second, min(only_first, only_second)
    ways, below = 1, 0  # ways(i) = C(total, i); below = sum of ways(0..fewer-1): integers, so exact
    for index in range(fewer):
        below += ways
        ways = ways * (total - index) // (index + 1)
    whole = 1 << total
    exact = min(1.0, 2 * (below + ways) / whole)
    mid_p = min(1.0, (2 * below + ways) / whole)
    return McNemar(only_first, only_second, exact, mid_p if total else 1.0)


@dataclass(frozen=True)
class Comparison:
    """The first run against the second, on the items that both judged.

    A pair counts as right if its mean credit is above one half.  McNemar's test assumes independent pairs,
    which the cells of an item and the pairs of a prompt are not; `differences` (first minus second, with a
    95 % interval from the same resampled prompts for both) do not assume this.
    """

    first: str
    second: str
    pairs: int
    left_out: int
    both: int
    neither: int
    mcnemar: McNemar
    differences: dict[str, dict[str, float | None]]
    notes: dict[str, list[str]]
    """Run name -> notes on what its log lacks; without complete runs."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def compare_runs(first: ScoredRun, second: ScoredRun, draws: int = DRAWS) -> Comparison:
    """Compare two runs.

    Raises:
        UserError: the benchmarks differ, or the runs share no item.
    """
    if first.benchmark != second.benchmark:
        raise UserError(
            f"{first.name} is on {first.benchmark}, {second.name} on {second.benchmark}; "
            "compare runs on the same benchmark"
        )
    ours, theirs = _shared(first.subsets, second.subsets)
    counts = np.zeros((2, 2), dtype=np.int64)
    for subset, name, cell, pair in _pairs(ours):
        other = theirs[subset].items[name][cell]
        counts[int(pair.mean_credit > 0.5), int(other.mean_credit > 0.5)] += 1
    if not counts.sum():
        raise UserError(
            f"{first.name} and {second.name} have no item in common; compare runs of the same items"
        )
    everything = len(_pairs(first.subsets)) + len(_pairs(second.subsets))
    return Comparison(
        first=first.name,
        second=second.name,
        pairs=int(counts.sum()),
        left_out=everything - 2 * int(counts.sum()),
        both=int(counts[1, 1]),
        neither=int(counts[0, 0]),
        mcnemar=mcnemar(int(counts[1, 0]), int(counts[0, 1])),
        differences=_differences(first, second, ours, theirs, draws),
        notes={run.name: notes for run in (first, second) if (notes := run.result.coverage.notes())},
    )


def _differences(
    first: ScoredRun,
    second: ScoredRun,
    ours: Mapping[str, SubsetOutcomes],
    theirs: Mapping[str, SubsetOutcomes],
    draws: int,
) -> dict[str, dict[str, float | None]]:
    module = MODULES[first.benchmark]
    names = module.elements(ours, first.rules).names
    drawn = bootstrap(module.elements(ours, first.rules), draws) - bootstrap(
        module.elements(theirs, second.rules), draws
    )
    values = [
        module.result(subsets, run.rules, partial=True).values()
        for subsets, run in ((ours, first), (theirs, second))
    ]
    differences: dict[str, dict[str, float | None]] = {}
    for column, name in enumerate(names):
        if name in values[0] and name in values[1]:
            low, high = interval(drawn[:, column]) or (None, None)
            differences[name] = {"difference": values[0][name] - values[1][name], "low": low, "high": high}
    return differences


def _shared(
    first: Mapping[str, SubsetOutcomes], second: Mapping[str, SubsetOutcomes]
) -> tuple[dict[str, SubsetOutcomes], dict[str, SubsetOutcomes]]:
    """The outcomes of both runs on the items that they share with the same cells."""
    ours: dict[str, SubsetOutcomes] = {}
    theirs: dict[str, SubsetOutcomes] = {}
    for name in sorted(first.keys() & second.keys()):
        one, other = first[name], second[name]
        items = [
            item
            for item in sorted(one.items.keys() & other.items.keys())
            if one.items[item].keys() == other.items[item].keys()
        ]
        # both must be resampled by the same prompts, and a scalar model's log may name none
        prompts = one.prompts | other.prompts
        if items:
            for shared, subset in ((ours, one), (theirs, other)):
                shared[name] = SubsetOutcomes({i: subset.items[i] for i in items}, subset.statuses, prompts)
    return ours, theirs


def _pairs(
    subsets: Mapping[str, SubsetOutcomes],
) -> list[tuple[str, str, str | None, PairOutcome]]:
    return [
        (name, item, cell, pair)
        for name, subset in subsets.items()
        for item, cells in subset.items.items()
        for cell, pair in cells.items()
    ]

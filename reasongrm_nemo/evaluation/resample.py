# SPDX-License-Identifier: Apache-2.0
"""Bootstrap intervals of a benchmark's scores, and of the difference of two runs.

A benchmark's subsets (RMB: its scenarios) are fixed; within each, prompts are drawn with replacement,
together with all their items, cells, orders and samples. A score is a weighted mean of elements (a subset's
accuracy, a domain's difficulty), each a sum over a count, so one draw of weights for the prompts gives all.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
DRAWS = 1000
_CHUNK = 1 << 21
"""Number of weights held in memory."""


@dataclass
class Elements:
    """Sums and counts by cluster and element.

    `scores` gives each score's weights over elements; a score with a missing element is omitted.
    """

    scores: Mapping[str, Mapping[str, float]]
    _cells: dict[tuple[str, Hashable], dict[str, tuple[float, int]]] = field(default_factory=dict)

    def add(self, stratum: str, cluster: Hashable, element: str, values: Sequence[float]) -> None:
        """Add the values of one cluster of a stratum to an element."""
        cell = self._cells.setdefault((stratum, cluster), {})
        before, count = cell.get(element, (0.0, 0))
        cell[element] = (before + math.fsum(values), count + len(values))

    @property
    def names(self) -> list[str]:
        """The scores that can be computed."""
        there = {element for cell in self._cells.values() for element in cell}
        return [name for name, weights in self.scores.items() if weights.keys() <= there]

    def arrays(self) -> tuple[list[int], Floats, Floats, Floats]:
        """Strata sizes, sums (C, K), counts (C, K), weights (K, S); clusters are sorted by stratum."""
        keys = sorted(self._cells, key=lambda key: (key[0], str(key[1])))
        elements = sorted({element for cell in self._cells.values() for element in cell})
        column = {element: index for index, element in enumerate(elements)}
        sums, counts = np.zeros((2, len(keys), len(elements)))
        for row, key in enumerate(keys):
            for element, (total, count) in self._cells[key].items():
                sums[row, column[element]] = total
                counts[row, column[element]] = count
        sizes: dict[str, int] = {}
        for stratum, _ in keys:
            sizes[stratum] = sizes.get(stratum, 0) + 1
        weights = np.zeros((len(elements), len(self.names)))
        for index, name in enumerate(self.names):
            for element, weight in self.scores[name].items():
                weights[column[element], index] = weight
        return list(sizes.values()), sums, counts, weights


def bootstrap(elements: Elements, draws: int = DRAWS, seed: int = 0) -> Floats:
    """Scores under resampling, (draws, len(elements.names)).

    Two runs with the same items, prompts and seed get the same draws, so that their difference is paired. A
    draw in which an element of a score has no item is NaN there.
    """
    sizes, sums, counts, weights = elements.arrays()
    rng = np.random.default_rng(seed)
    scores = np.empty((draws, weights.shape[1]))
    total = sum(sizes)
    chunk = max(1, _CHUNK // total)
    weighted = np.empty((chunk, total))
    for start in range(0, draws, chunk):
        stop = min(draws, start + chunk)
        drawn = weighted[: stop - start]
        place = 0
        for size in sizes:
            drawn[:, place : place + size] = _weights(rng, size, stop - start)
            place += size
        with np.errstate(invalid="ignore"):
            means = (drawn @ sums) / (drawn @ counts)
        # an element that a score does not use must not make it NaN
        for column in range(weights.shape[1]):
            used = weights[:, column] != 0
            scores[start:stop, column] = means[:, used] @ weights[used, column]
    return scores


def _weights(rng: np.random.Generator, size: int, draws: int) -> npt.NDArray[np.int64]:
    """How often each of `size` clusters is drawn in `size` draws with replacement, (draws, size)."""
    # drawing 16 bits is eight times as fast as 64
    kind = np.uint16 if size <= 1 << 16 else np.uint64
    drawn = rng.integers(0, size, size=(draws, size), dtype=kind).astype(np.int64)
    drawn += np.arange(draws, dtype=np.int64)[:, None] * size
    return np.bincount(drawn.ravel(), minlength=draws * size).reshape(draws, size)


def interval(scores: Floats) -> tuple[float, float] | None:
    """The 95 % percentile interval of resampled scores, (draws,); None if they do not vary."""
    known = scores[~np.isnan(scores)]
    if len(known) == 0 or known.min() == known.max():
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)

# SPDX-License-Identifier: Apache-2.0
"""Splits a global batch into micro-batches by a token budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Cost of launching one more micro-batch, as a share of the mean length in padding tokens.
_OVERHEAD = 0.25


def plan_micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group sequences of similar length, with rows x longest of at most ``budget`` tokens per group.

    Minimizes padding over all splits of the sorted lengths by dynamic programming, with a small fixed cost
    for each micro-batch.

    Args:
        lengths: tokens of each sequence.
        budget: tokens per micro-batch, padding included; a longer sequence gets its own micro-batch.

    Returns:
        Indices of each micro-batch, longest first (the largest allocation comes first).
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    sizes = np.array([lengths[i] for i in order], dtype=np.float64)
    extra = _OVERHEAD * sizes.mean() if len(sizes) else 0.0
    cost = np.zeros(len(sizes) + 1)  # cost of the best split of the sequences from index i on
    rows = np.zeros(len(sizes), dtype=np.int64)  # size of the first group in that split
    for place in range(len(sizes) - 1, -1, -1):
        most = min(max(int(budget // sizes[place]), 1), len(sizes) - place)
        counts = np.arange(1, most + 1)
        totals = counts * sizes[place] + extra + cost[place + 1 : place + most + 1]
        best = int(totals.argmin())
        cost[place], rows[place] = totals[best], counts[best]
    groups, place = [], 0
    while place < len(order):
        groups.append(order[place : place + rows[place]])
        place += rows[place]
    return groups


def laid_out(lengths: Sequence[int], groups: Sequence[Sequence[int]]) -> int:
    """Number of tokens in the micro-batches ``groups``, padding included."""
    return sum(len(g) * max(lengths[i] for i in g) for g in groups)

# SPDX-License-Identifier: Apache-2.0
"""Verdict logs of made-up judges on a benchmark's pairs."""

import random

from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.evaluation import rewardbench, rm_bench, rmb

ORDERS = ("chosen_first", "rejected_first")


def pairs_of(benchmark, items):
    if benchmark == "rewardbench":
        return [(name, f"{i}", None) for name in rewardbench.ITEMS for i in range(items)]
    if benchmark == "rm_bench":
        return [(n, f"{i}", c) for n in rm_bench.ITEMS for i in range(items) for c in sorted(rm_bench.CELLS)]
    subsets = [(name, ("0", "1") if rmb.is_best_of_n(name) else (None,)) for name in rmb.counts()]
    return [(name, f"{i}", cell) for name, cells in subsets for i in range(items) for cell in cells]


def judged(benchmark, pair, right, order="chosen_first", **more):
    """A judgement; `right` is True, False, or None for no verdict."""
    side = {True: "A", False: "B", None: None}[right]
    if order == "rejected_first" and side:
        side = "AB"["BA".index(side)]
    status = "ok" if side else "no_verdict"
    return Verdict(benchmark, *pair, order, side, bool(right), False, status, 1, "", **more)


def drawn_log(benchmark, share, seed, items=20, same=0.0):
    """Judgements right with probability `share`; those of an item agree with probability `same`."""
    rng = random.Random(seed)
    coins = {}
    log = []
    for subset, item, cell in pairs_of(benchmark, items):
        coin = coins.setdefault((subset, item), rng.random() < share)
        right = coin if rng.random() < same else rng.random() < share
        log.append(judged(benchmark, (subset, item, cell), right))
    return log

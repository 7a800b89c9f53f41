# SPDX-License-Identifier: Apache-2.0
"""Measures a judge's position bias."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from reasongrm_nemo.data.records import Order, Side
from reasongrm_nemo.evaluation.accuracy import accuracy


@dataclass
class Positions:
    """Collects judgements by pair; several samples of an order are averaged."""

    _pairs: dict[str, dict[Order, Counter[Side | None]]] = field(default_factory=dict)

    def add(self, pair: str, order: Order, verdict: Side | None) -> None:
        """Add one judgement; `pair` is the same name for both orders."""
        self._pairs.setdefault(pair, {}).setdefault(order, Counter())[verdict] += 1

    def figures(self) -> dict[str, Any]:
        """The figures, JSON-ready.

        Returns:
            `position_a`: share of A among verdicts, 0.5 if no position is favored and the labels are
            balanced; `chosen_first` and `rejected_first`: accuracy in each order (no verdict counts as
            wrong); `both`: for pairs judged in both orders, their number and four shares that sum to 1:
            `consistent` (the same answer preferred), `always_first`, `always_second` and `unread` (no verdict
            in at least one order), averaged over all combinations of a judgement in one order and one in the
            other.  All but the number are accuracies with interval (`Accuracy.to_dict`), clustered by pair.
        """
        first = _Shares()
        by_order: dict[Order, _Shares] = {"chosen_first": _Shares(), "rejected_first": _Shares()}
        both = {name: _Shares() for name in ("consistent", "always_first", "always_second", "unread")}
        for pair, orders in self._pairs.items():
            for order, verdicts in orders.items():
                right: Side = "A" if order == "chosen_first" else "B"
                by_order[order].add(pair, verdicts[right], sum(verdicts.values()))
                first.add(pair, verdicts["A"], verdicts["A"] + verdicts["B"])
            if len(orders) == 2:
                for name, share in _both(orders["chosen_first"], orders["rejected_first"]).items():
                    both[name].add_share(pair, share)
        return {
            "position_a": first.figure(),
            **{order: shares.figure() for order, shares in by_order.items()},
            "both": {
                "pairs": len(both["consistent"].items),
                **{name: shares.figure() for name, shares in both.items()},
            },
        }


@dataclass
class _Shares:
    values: list[float] = field(default_factory=list)
    items: list[str] = field(default_factory=list)

    def add(self, item: str, hits: int, of: int) -> None:
        self.values += [1.0] * hits + [0.0] * (of - hits)
        self.items += [item] * of

    def add_share(self, item: str, share: float) -> None:
        self.values.append(share)
        self.items.append(item)

    def figure(self) -> dict[str, Any]:
        return accuracy(self.values, self.items).to_dict()


def _both(one: Counter[Side | None], other: Counter[Side | None]) -> dict[str, float]:
    """Shares over all combinations of a judgement in one order and one in the other."""
    p, q = _split(one), _split(other)
    # Swapping the answers swaps the letters, so the same answer is another letter.
    consistent = p["A"] * q["B"] + p["B"] * q["A"]
    first, second = p["A"] * q["A"], p["B"] * q["B"]
    return {
        "consistent": consistent,
        "always_first": first,
        "always_second": second,
        "unread": max(0.0, 1.0 - consistent - first - second),
    }


def _split(verdicts: Counter[Side | None]) -> dict[Side, float]:
    total = sum(verdicts.values())
    return {"A": verdicts["A"] / total, "B": verdicts["B"] / total}

# SPDX-License-Identifier: Apache-2.0
"""Accuracy with its confidence interval, and the counts that explain it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reasongrm_nemo.data.records import Verdict

Z95 = 1.959963984540054
"""The normal distribution's 97.5 % point."""


@dataclass(frozen=True)
class Accuracy:
    """A share with its 95 % interval.

    `method` is `wilson` (one judgement per item), `clustered` (several), `combined` (a weighted mean of
    accuracies, see `combine`), or `none` (no judgement: `value` is None and the interval is [0, 1]).
    """

    value: float | None
    low: float
    high: float
    judgements: int
    items: int
    method: str

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def accuracy(outcomes: Sequence[float], items: Sequence[Hashable] | None = None) -> Accuracy:
    """Mean outcome with a 95 % interval, clustered by item.

    With one right-or-wrong judgement per item: Wilson's interval. Otherwise the samples (or orders) of an
    item are not independent, so the interval is normal with the cluster-robust variance of a ratio,
    m/(m-1) * sum_c (sum_{j in c} (y_j - mean))^2 / N^2 over the m items. If that variance is zero (all items
    alike) or undefined (a single item), Wilson's interval over the number of items is used instead.

    Args:
        outcomes: (N,) 1 for right, 0 for wrong, or a share such as 0.5 for a tie.
        items: (N,) the item of each judgement; None if all are different.

    Raises:
        ValueError: lengths differ, or an outcome is outside [0, 1].
    """
    values = np.asarray(outcomes, dtype=np.float64)
    count = len(values)
    if items is not None and len(items) != count:
        raise ValueError(f"{len(items)} items for {count} outcomes")
    if not bool(((values >= 0.0) & (values <= 1.0)).all()):
        raise ValueError("An outcome is not within [0, 1]")
    if count == 0:
        return Accuracy(None, 0.0, 1.0, 0, 0, "none")
    mean = math.fsum(values) / count
    residuals: dict[Hashable, float] = {}
    for index, value in enumerate(values):
        item = index if items is None else items[index]
        residuals[item] = residuals.get(item, 0.0) + float(value) - mean
    clusters = len(residuals)
    whole = bool(np.isin(values, (0.0, 1.0)).all())
    spread = math.fsum(residual**2 for residual in residuals.values())
    if (clusters == count and whole) or clusters == 1 or spread < 1e-18 * count:
        low, high = wilson(mean, clusters)
        return Accuracy(mean, low, high, count, clusters, "wilson")
    error = math.sqrt(clusters / (clusters - 1) * spread) / count
    low, high = max(0.0, mean - Z95 * error), min(1.0, mean + Z95 * error)
    return Accuracy(mean, low, high, count, clusters, "clustered")


def combine(parts: Sequence[tuple[float, Accuracy]]) -> Accuracy:
    """The weighted mean of independent accuracies, with an interval from theirs.

    By the MOVER method (Zou and Donner 2008): the lower limit lies sqrt(sum_i w_i^2 (value_i - low_i)^2)
    below the mean, the upper one likewise; unlike a normal interval, it has a width even if all parts are 1.

    Args:
        parts: weights, which must sum to 1, and accuracies.
    """
    values = [(weight, part.value) for weight, part in parts]
    judgements = sum(part.judgements for _, part in parts)
    items = sum(part.items for _, part in parts)
    known = [(weight, value) for weight, value in values if value is not None]
    if len(known) < len(values) or not known:
        return Accuracy(None, 0.0, 1.0, judgements, items, "none")
    mean = math.fsum(weight * value for weight, value in known)
    below = math.hypot(*(w * (value - part.low) for (w, value), (_, part) in zip(known, parts, strict=True)))
    above = math.hypot(*(w * (part.high - value) for (w, value), (_, part) in zip(known, parts, strict=True)))
    return Accuracy(mean, max(0.0, mean - below), min(1.0, mean + above), judgements, items, "combined")


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count` independent trials."""
    z2 = Z95**2 / count
    centre = (share + z2 / 2) / (1 + z2)
    half = Z95 / (1 + z2) * math.sqrt(share * (1 - share) / count + z2 / (4 * count))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def summarize_verdicts(verdicts: Iterable[Verdict], tie_credit: float = 0.0) -> dict[str, Any]:
    """Figures on a set of judgements.

    Args:
        verdicts: judgements; those with the same benchmark, subset and item id count as dependent.
        tie_credit: credit for a tie (0.5 in RewardBench's code, 0 in the others').

    Returns:
        JSON-ready: `accuracy` (with interval), `accuracy_by_order` (the same for each order), parse
        `statuses`, `ties`, `no_verdict`, `truncated` (share cut at the token limit; None if unknown),
        `position_a` (share of A among the verdicts, with interval; 0.5 is unbiased if the orders are
        balanced), `label_a` (share of judgements in which A was right),
        `agreement_between_orders` (share of item-cells judged once in each order that keep their choice; None
        if there are none), `tokens` (mean, median, 95th percentile, total).

    Raises:
        ValueError: the credit is outside [0, 1].
    """
    if not 0.0 <= tie_credit <= 1.0:
        raise ValueError(f"The credit of a tie must be in [0, 1], got {tie_credit}")
    all_verdicts = list(verdicts)

    def score(group: Sequence[Verdict]) -> dict[str, Any]:
        outcomes = [tie_credit if v.tie else float(v.correct) for v in group]
        return accuracy(outcomes, [_item(v) for v in group]).to_dict()

    decided = [v for v in all_verdicts if v.verdict is not None]
    ends = [v.finish_reason for v in all_verdicts if v.finish_reason is not None]
    tokens = np.array([v.tokens for v in all_verdicts], dtype=np.float64)
    return {
        "accuracy": score(all_verdicts),
        "accuracy_by_order": {
            order: score([v for v in all_verdicts if v.order == order])
            for order in ("chosen_first", "rejected_first")
        },
        "statuses": dict(Counter(v.parse_status for v in all_verdicts).most_common()),
        "ties": sum(v.tie for v in all_verdicts),
        "no_verdict": sum(v.verdict is None and v.chosen_score is None for v in all_verdicts),
        "truncated": _share([end == "length" for end in ends]),
        "position_a": accuracy(
            [float(v.verdict == "A") for v in decided], [_item(v) for v in decided]
        ).to_dict(),
        "label_a": _share([v.order == "chosen_first" for v in all_verdicts]),
        "agreement_between_orders": _agreement(all_verdicts),
        "tokens": {
            "mean": float(tokens.mean()),
            "median": float(np.median(tokens)),
            "q0.95": float(np.quantile(tokens, 0.95)),
            "total": int(tokens.sum()),
        }
        if len(tokens)
        else None,
    }


def _item(verdict: Verdict) -> Hashable:
    return (verdict.benchmark, verdict.subset, verdict.item_id)


def _agreement(verdicts: Sequence[Verdict]) -> float | None:
    by_item: dict[Hashable, dict[str | None, list[Verdict]]] = {}
    for verdict in verdicts:
        orders = by_item.setdefault((_item(verdict), verdict.cell), {})
        orders.setdefault(verdict.order, []).append(verdict)
    same = []
    for orders in by_item.values():
        if len(orders) == 2 and all(len(group) == 1 for group in orders.values()):
            first, second = (group[0] for group in orders.values())
            # A in one order and B in the other is the same answer.
            same.append({first.verdict, second.verdict} == {"A", "B"})
    return _share(same)


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None

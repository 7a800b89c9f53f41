# SPDX-License-Identifier: Apache-2.0
"""Reports figures on the filter's paths and choices: the selection of section 3.3 and its alternatives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reasongrm_nemo.data.records import ReasoningPath
from reasongrm_nemo.rstar.hesitation import HesitationCounter
from reasongrm_nemo.rstar.select import INELIGIBLE, NO_FLOORS, Floors, Selector
from reasongrm_nemo.rstar.table import Rows, TableBuilder

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
COMPARED = ("r_star", "random", "shortest")


class Extreme(NamedTuple):
    """Two paths to show side by side, as row numbers."""

    high: int
    low: int


class Report:
    """Figures on a table of paths and on what each strategy chooses from it.

    Args:
        selector: selector of the table's paths.
    """

    def __init__(self, selector: Selector) -> None:
        self._selector, self._table = selector, selector.table
        self._chosen = {name: selector.choose(name) for name in COMPARED}

    def figures(self) -> dict[str, Any]:
        """The report, JSON-ready; see `selection_report`."""
        table, reason, chosen = self._table, self._selector.reason, self._chosen
        task, score, tasks = table.task, table.score, len(table.task_ids)
        whole = reason == 0
        choices = np.bincount(task[whole], minlength=tasks)
        right = np.bincount(task[table.correct], minlength=tasks)
        rejected = whole.copy()
        rejected[chosen["r_star"]] = False
        contested = choices[task[chosen["r_star"]]] > 1
        counts = np.bincount(reason, minlength=len(INELIGIBLE) + 1)[1:]
        reasons = sorted((-count, name) for name, count in zip(INELIGIBLE, counts, strict=True) if count)
        scored = np.flatnonzero(~np.isnan(score))
        return {
            "tasks": tasks,
            "tasks_without_right_path": int((right == 0).sum()),
            "tasks_without_eligible_path": int((choices == 0).sum()),
            "tasks_with_one_eligible_path": int((choices == 1).sum()),
            "paths": len(table),
            "right_paths": int(table.correct.sum()),
            "ineligible_paths": {name: int(-count) for count, name in reasons},
            "sets": {
                "eligible": self._set(self._selector.eligible),
                **{f"chosen_{name}": self._set(rows) for name, rows in chosen.items()},
                "rejected_by_r_star": self._set(np.flatnonzero(rejected)),
                "wrong": self._set(np.flatnonzero(~table.correct)),
            },
            # chosen rows are sorted by task, and all strategies choose for the same tasks
            "agreement": {
                name: _share((chosen[name] == chosen["r_star"])[contested]) for name in ("random", "shortest")
            },
            "r_star_length_correlation": _within_task_correlation(
                task, score, table.length, self._selector.eligible
            ),
            "r_star_right_correlation": _within_task_correlation(task, score, table.correct, scored),
            "right_above_wrong": _right_above_wrong(task, score, table.correct, scored),
        }

    def widest(self, count: int) -> list[Extreme]:
        """Highest and lowest eligible paths by R* of the tasks where these two differ most."""
        rows = self._selector.eligible
        if not len(rows):
            return []
        rows = rows[np.lexsort((rows, self._table.score[rows], self._table.task[rows]))]
        task, score = self._table.task[rows], self._table.score[rows]
        first = np.flatnonzero(np.diff(task, prepend=-1))
        last = np.append(first[1:], len(rows)) - 1
        gap = score[last] - score[first]
        order = np.argsort(-gap, kind="stable")[:count]
        return [Extreme(int(rows[last[at]]), int(rows[first[at]])) for at in order if first[at] != last[at]]

    def ends(self, count: int) -> list[Extreme]:
        """Pairs of the highest and lowest of R*'s choices, outermost first, each path used once."""
        rows = self._chosen["r_star"]
        rows = rows[np.argsort(self._table.score[rows], kind="stable")]
        return [Extreme(int(rows[-1 - at]), int(rows[at])) for at in range(min(count, len(rows) // 2))]

    def _set(self, rows: Rows) -> dict[str, Any]:
        out: dict[str, Any] = {"paths": len(rows)}
        if not len(rows):
            return out
        table = self._table
        for name, column in (
            ("r_star", table.score),
            ("self_consistency", table.self_consistency),
            ("validity", table.validity),
            ("length", table.length.astype(np.float64)),
        ):
            values = column[rows]
            if len(values := values[~np.isnan(values)]):
                out[name] = _distribution(values)
        hesitations = table.hesitations[rows]
        out["hesitations_per_path"] = float(hesitations.mean())
        out["paths_with_hesitation"] = float((hesitations > 0).mean())
        return out


def selection_report(
    paths: Iterable[ReasoningPath], seed: int = 0, floors: Floors = NO_FLOORS
) -> dict[str, Any]:
    """Figures on a set of paths and on what each strategy chooses from it.

    Args:
        paths: all generated paths, in any order; read once, without keeping texts.
        seed: the run's seed, for the random choice (the same choice as in `select_paths`).
        floors: see `Selector`.

    Returns:
        JSON-ready: `tasks`, `tasks_without_right_path` (wrong in every sample), `tasks_without_eligible_path`
        and `tasks_with_one_eligible_path` (where no strategy has a choice), `paths`, `right_paths`,
        `ineligible_paths` by reason, `sets` (set of paths -> figures: quantiles and mean of R*,
        self-consistency, validity and tokens; hesitations per path), `agreement` of R*'s choice with other
        strategies over tasks with a choice, and within tasks `r_star_length_correlation` (eligible paths),
        `r_star_right_correlation` (all paths with both parts) and `right_above_wrong` (share of all pairs of
        a right and a wrong path of one task in which the right one has the higher R*; ties count half).
    """
    builder = TableBuilder()
    with HesitationCounter() as counter:
        for path in paths:
            builder.add(path)
            counter.add(path.text)
        table = builder.finish(counter.counts())
    return Report(Selector(table, seed, floors)).figures()


def _distribution(values: NDArray[np.float64]) -> dict[str, float]:
    cuts = np.quantile(values, QUANTILES)
    out = {f"q{quantile:g}": float(cut) for quantile, cut in zip(QUANTILES, cuts, strict=True)}
    return {**out, "mean": float(values.mean())}


def _share(flags: NDArray[np.bool_]) -> float | None:
    return float(flags.mean()) if len(flags) else None


def _within_task_correlation(task: Rows, x: NDArray[Any], y: NDArray[Any], rows: Rows) -> float | None:
    """Pearson's r over `rows` after subtracting each task's means; None without variance."""
    _, group, sizes = np.unique(task[rows], return_inverse=True, return_counts=True)
    several = sizes[group] > 1
    parts = []
    for values in (x[rows].astype(np.float64), y[rows].astype(np.float64)):
        means = np.bincount(group, values, minlength=len(sizes)) / sizes
        parts.append((values - means[group])[several])
    scale = float(np.sqrt((parts[0] @ parts[0]) * (parts[1] @ parts[1])))
    return float(parts[0] @ parts[1]) / scale if scale > 0.0 else None


def _right_above_wrong(task: Rows, score: NDArray[Any], correct: NDArray[Any], rows: Rows) -> float | None:
    rows = rows[np.argsort(task[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(task[rows], prepend=-1))[1:]
    above, pairs = 0.0, 0
    for group in np.split(rows, starts):
        right: Sequence[float] = score[group[correct[group] > 0]]
        wrong: Sequence[float] = score[group[correct[group] == 0]]
        if len(right) and len(wrong):
            difference = np.subtract.outer(right, wrong)
            above += float((difference > 0).sum() + 0.5 * (difference == 0).sum())
            pairs += difference.size
    return above / pairs if pairs else None

# SPDX-License-Identifier: Apache-2.0
"""What the filter saw and chose, in figures: the section 3.3 selection beside its alternatives."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reasongrm_nemo.data.records import ReasoningPath
from reasongrm_nemo.rstar.score import score_sums
from reasongrm_nemo.rstar.select import NO_FLOORS, Floors, Selector, ineligible

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
COMPARED = ("r_star", "random", "shortest")

HESITATION = re.compile(
    r"\b(?:wait|hmm+|hold on|on second thought|let me (?:re-?check|double[- ]check|check again|think again)"
    r"|not (?:entirely |quite |so )?sure|am i sure|actually|alternatively)\b"
)
"""Words of second thoughts, in lower case.  A crude count, for comparing sets of paths by one model."""
_HEADS = ("wait", "hmm", "hold on", "on second", "let me ", "not ", "am i sure", "actually", "alternatively")

Rows = NDArray[np.int64]


def count_hesitations(text: str) -> int:
    """How many markers of hesitation a path holds, whatever their case."""
    text = text.lower()
    starts = []
    for head in _HEADS:  # finding plain text is ten times as fast as trying the pattern everywhere
        at = text.find(head)
        while at >= 0:
            starts.append(at)
            at = text.find(head, at + 1)
    count = end = 0
    for start in sorted(starts):
        if start >= end and (match := HESITATION.match(text, start)):
            count, end = count + 1, match.end()
    return count


class Extreme(NamedTuple):
    """Two paths to read side by side, as row numbers of the order in which paths were added."""

    high: int
    low: int


class Report:
    """Collects figures on paths that come one by one, some 60 bytes a path; texts are not kept.

    Args:
        seed: the run's seed, for the random choice (the same as `select_paths` makes).
        floors: see `ineligible`.
    """

    def __init__(self, seed: int = 0, floors: Floors = NO_FLOORS) -> None:
        self._floors = floors
        self._tasks: dict[str, int] = {}
        self._reasons: list[str | None] = [None]
        self._task, self._reason = array("q"), array("b")
        self._correct, self._length, self._hesitations = array("b"), array("q"), array("q")
        self._score = array("d"), array("d"), array("d")
        self._selectors: dict[str, Selector[int]] = {
            name: Selector(name, seed, floors=floors) for name in COMPARED
        }

    def add(self, path: ReasoningPath) -> None:
        """Take a path in.

        Raises:
            ValueError: the same (task, sample) twice, or sums that are no sums of probabilities.
        """
        for selector in self._selectors.values():
            selector.add(path, len(self._task))
        reason = ineligible(path, self._floors)
        if reason not in self._reasons:
            self._reasons.append(reason)
        scored = path.reasoning_tokens > 0 and path.answer_tokens > 0
        for column, value in zip(
            self._score, score_sums(path) if scored else (np.nan, np.nan, np.nan), strict=True
        ):
            column.append(value)
        self._task.append(self._tasks.setdefault(path.task_id, len(self._tasks)))
        self._reason.append(self._reasons.index(reason))
        self._correct.append(path.correct)
        self._length.append(path.reasoning_tokens + path.answer_tokens)
        self._hesitations.append(count_hesitations(path.text))

    def figures(self) -> dict[str, Any]:
        """The report, JSON-ready; see `selection_report`."""
        task, correct, length = np.array(self._task), np.array(self._correct), np.array(self._length)
        reason, score = np.array(self._reason), np.array(self._score[0])
        whole = reason == 0
        chosen = {name: np.array(each.chosen(), dtype=np.int64) for name, each in self._selectors.items()}
        choices = np.bincount(task[whole], minlength=len(self._tasks))
        right = np.bincount(task[correct > 0], minlength=len(self._tasks))
        rejected = whole.copy()
        rejected[chosen["r_star"]] = False
        contested = choices[task[chosen["r_star"]]] > 1
        counts = np.bincount(reason, minlength=len(self._reasons))
        reasons = sorted(range(1, len(self._reasons)), key=lambda code: (-counts[code], self._reasons[code]))
        scored = np.flatnonzero(~np.isnan(score))
        return {
            "tasks": len(self._tasks),
            "tasks_without_right_path": int((right == 0).sum()),
            "tasks_without_eligible_path": int((choices == 0).sum()),
            "tasks_with_one_eligible_path": int((choices == 1).sum()),
            "paths": len(task),
            "right_paths": int(correct.sum()),
            "ineligible_paths": {str(self._reasons[code]): int(counts[code]) for code in reasons},
            "sets": {
                "eligible": self._set(np.flatnonzero(whole)),
                **{f"chosen_{name}": self._set(rows) for name, rows in chosen.items()},
                "rejected_by_r_star": self._set(np.flatnonzero(rejected)),
                "wrong": self._set(np.flatnonzero(correct == 0)),
            },
            # chosen rows are ordered by task, and every strategy chooses for the same tasks
            "agreement": {
                name: _share((chosen[name] == chosen["r_star"])[contested]) for name in ("random", "shortest")
            },
            "r_star_length_correlation": _within_task_correlation(task, score, length, np.flatnonzero(whole)),
            "r_star_right_correlation": _within_task_correlation(task, score, correct, scored),
            "right_above_wrong": _right_above_wrong(task, score, correct, scored),
        }

    def widest(self, count: int) -> list[Extreme]:
        """The eligible paths with the highest and the lowest R* of one task, where they differ most."""
        rows = np.flatnonzero(np.array(self._reason) == 0)
        if not len(rows):
            return []
        rows = rows[np.lexsort((rows, np.array(self._score[0])[rows], np.array(self._task)[rows]))]
        task, score = np.array(self._task)[rows], np.array(self._score[0])[rows]
        first = np.flatnonzero(np.diff(task, prepend=-1))
        last = np.append(first[1:], len(rows)) - 1
        gap = score[last] - score[first]
        order = np.argsort(-gap, kind="stable")[:count]
        return [Extreme(int(rows[last[at]]), int(rows[first[at]])) for at in order if first[at] != last[at]]

    def ends(self, count: int) -> list[Extreme]:
        """The highest and the lowest scored of R*'s choices, the outermost first, each used once."""
        rows = np.array(self._selectors["r_star"].chosen(), dtype=np.int64)
        rows = rows[np.argsort(np.array(self._score[0])[rows], kind="stable")]
        return [Extreme(int(rows[-1 - at]), int(rows[at])) for at in range(min(count, len(rows) // 2))]

    def score(self, row: int) -> float:
        """R* of a path by its row number."""
        return self._score[0][row]

    def _set(self, rows: Rows) -> dict[str, Any]:
        out: dict[str, Any] = {"paths": len(rows)}
        if not len(rows):
            return out
        columns = (*self._score, self._length)
        for name, column in zip(("r_star", "self_consistency", "validity", "length"), columns, strict=True):
            values = np.array(column, dtype=np.float64)[rows]
            if len(values := values[~np.isnan(values)]):
                out[name] = _distribution(values)
        hesitations = np.array(self._hesitations)[rows]
        out["hesitations_per_path"] = float(hesitations.mean())
        out["paths_with_hesitation"] = float((hesitations > 0).mean())
        return out


def selection_report(
    paths: Iterable[ReasoningPath], seed: int = 0, floors: Floors = NO_FLOORS
) -> dict[str, Any]:
    """Figures on a set of paths and on what each strategy chooses from it.

    Args:
        paths: all paths of the generation, in any order; read once, texts not kept.
        seed: the run's seed, for the random choice (the same as `select_paths` makes).
        floors: see `ineligible`.

    Returns:
        JSON-ready: `tasks`, `tasks_without_right_path` (wrong in every sample), `tasks_without_eligible_path`
        and `tasks_with_one_eligible_path` (where no strategy has a choice), `paths`, `right_paths`,
        `ineligible_paths` by reason, `sets` (a set of paths -> its figures: R*, self-consistency, validity,
        tokens as quantiles and mean, hesitations a path), `agreement` of R*'s choice with the others' over
        tasks with a choice, and within tasks `r_star_length_correlation` (eligible paths),
        `r_star_right_correlation` (all paths with both parts) and `right_above_wrong` (of all pairs of a
        right and a wrong path of one task, the share where the right one has the higher R*; ties half).
    """
    report = Report(seed, floors)
    for path in paths:
        report.add(path)
    return report.figures()


def _distribution(values: NDArray[np.float64]) -> dict[str, float]:
    out = {f"q{quantile:g}": float(np.quantile(values, quantile)) for quantile in QUANTILES}
    return {**out, "mean": float(values.mean())}


def _share(flags: NDArray[np.bool_]) -> float | None:
    return float(flags.mean()) if len(flags) else None


def _within_task_correlation(task: Rows, x: NDArray[Any], y: NDArray[Any], rows: Rows) -> float | None:
    """Pearson's r over `rows` after taking each task's means away; None where nothing varies."""
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

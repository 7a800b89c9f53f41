# SPDX-License-Identifier: Apache-2.0
"""Paths as columns of figures, R* among them, without texts, for selection, mining and reports."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reasongrm_nemo.data.records import ReasoningPath, Side
from reasongrm_nemo.judge.think import THINK_CLOSE
from reasongrm_nemo.rstar.score import TOLERANCE

Rows = NDArray[np.int64]
"""Row numbers of a table."""

VERDICTS: tuple[Side | None, ...] = (None, "A", "B")
"""Verdicts by their codes in the column `verdict`."""

_CODES = {verdict: code for code, verdict in enumerate(VERDICTS)}
_FLAGS = ("correct", "cut_off", "unread", "unscored", "untagged")
_COLUMNS = {
    **dict.fromkeys(("task", "sample", "place", "reasoning_tokens", "answer_tokens"), "q"),
    **dict.fromkeys(("reasoning_prob_sum", "answer_prob_sum"), "d"),
    **dict.fromkeys((*_FLAGS, "verdict"), "b"),
}


@dataclass(frozen=True)
class PathTable:
    """N paths; row numbers are the order in which they were added.

    Attributes:
        task_ids: task ids in the order of their first path.
        task: (N,) int64, index into `task_ids`; also int64: `sample`, `place` (set by the caller),
            `reasoning_tokens`, `answer_tokens`, and `hesitations` (0 if not counted).
        correct: (N,) bool; also bool: `cut_off` (truncated at the length limit), `unread` (neither a verdict
            nor an open answer), `unscored` (not expressible for the scorer) and `untagged` (no `</think>`).
        verdict: (N,) int8, index into `VERDICTS`.
        self_consistency: (N,) float64, as are `validity` and `score`, their product R*; NaN for a path
            without reasoning tokens or without answer tokens.
    """

    task_ids: list[str]
    task: Rows
    sample: Rows
    place: Rows
    reasoning_tokens: Rows
    answer_tokens: Rows
    hesitations: Rows
    correct: NDArray[np.bool_]
    cut_off: NDArray[np.bool_]
    unread: NDArray[np.bool_]
    unscored: NDArray[np.bool_]
    untagged: NDArray[np.bool_]
    verdict: NDArray[np.int8]
    self_consistency: NDArray[np.float64]
    validity: NDArray[np.float64]
    score: NDArray[np.float64]

    @classmethod
    def of(cls, paths: Iterable[ReasoningPath]) -> PathTable:
        """Make a table of paths, with their indices as places.  Raises as `TableBuilder.finish`."""
        builder = TableBuilder()
        for number, path in enumerate(paths):
            builder.add(path, number)
        return builder.finish()

    def __len__(self) -> int:
        return len(self.task)

    @property
    def length(self) -> Rows:
        """(N,) tokens of reasoning and answer."""
        return self.reasoning_tokens + self.answer_tokens

    @property
    def id_order(self) -> Rows:
        """(N,) rank of each path's task among the sorted task ids."""
        order = np.empty(len(self.task_ids), dtype=np.int64)
        order[sorted(range(len(order)), key=self.task_ids.__getitem__)] = np.arange(len(order))
        return order[self.task]

    def name(self, row: int) -> str:
        """Name of a path, for messages."""
        return f"{self.task_ids[self.task[row]]} sample {self.sample[row]}"


class TableBuilder:
    """Builds a table from paths added one by one, in any order, with about 80 bytes per path."""

    def __init__(self) -> None:
        self._tasks: dict[str, int] = {}
        self._columns: dict[str, array[Any]] = {name: array(code) for name, code in _COLUMNS.items()}
        # look up the methods once: add() is the inner loop of reading a file of paths
        self._appends = tuple(column.append for column in self._columns.values())

    def add(self, path: ReasoningPath, place: int = 0) -> None:
        """Add a path.

        Args:
            path: the path; its text is not kept.
            place: number for finding the text again, such as an offset in a file.

        Raises:
            ValueError: a count or the sample index exceeds 64 bits.
        """
        values = (
            self._tasks.setdefault(path.task_id, len(self._tasks)),
            path.sample,
            place,
            path.reasoning_tokens,
            path.answer_tokens,
            path.reasoning_prob_sum,
            path.answer_prob_sum,
            path.correct,
            path.finish_reason == "length",
            path.verdict is None and path.answer is None,
            path.unscored is not None,
            THINK_CLOSE not in path.text,
            _CODES[path.verdict],
        )
        try:
            for append, value in zip(self._appends, values):  # noqa: B905 - of equal length
                append(value)
        except OverflowError:
            raise ValueError(f"Path {path.task_id} has a number past 64 bits") from None

    def finish(self, hesitations: Rows | None = None) -> PathTable:
        """Build the table.

        Args:
            hesitations: (N,) number of hesitation markers in each text; None: not counted.

        Raises:
            ValueError: the same (task, sample) twice, or sums that exceed the token counts.
        """
        columns: dict[str, Any] = {name: np.array(column) for name, column in self._columns.items()}
        reasoning = columns["reasoning_prob_sum"], columns["reasoning_tokens"]
        answer = columns["answer_prob_sum"], columns["answer_tokens"]
        scored = (reasoning[1] > 0) & (answer[1] > 0)
        consistency, validity = _means(*reasoning, scored), _means(*answer, scored)
        table = PathTable(
            task_ids=list(self._tasks),
            hesitations=np.zeros(len(scored), dtype=np.int64) if hesitations is None else hesitations,
            **{name: columns[name] for name in _COLUMNS if not name.endswith("_sum") and name not in _FLAGS},
            **{name: columns[name].astype(np.bool_) for name in _FLAGS},
            self_consistency=np.minimum(consistency, 1.0),
            validity=np.minimum(validity, 1.0),
            score=np.minimum(consistency, 1.0) * np.minimum(validity, 1.0),
        )
        for part, (total, count) in (("reasoning", reasoning), ("answer", answer)):
            wrong = np.flatnonzero(scored & ~((total >= 0.0) & (total <= count * (1.0 + TOLERANCE))))
            if len(wrong):
                raise ValueError(
                    f"Path {table.name(wrong[0])}: {total[wrong[0]]} cannot be a sum of {count[wrong[0]]} "
                    f"probabilities ({part})"
                )
        order = np.lexsort((table.sample, table.task))
        twice = np.flatnonzero((np.diff(table.task[order]) == 0) & (np.diff(table.sample[order]) == 0))
        if len(twice):
            row = order[twice[0]]
            raise ValueError(f"Task {table.task_ids[table.task[row]]} has sample {table.sample[row]} twice")
        return table


def _means(total: NDArray[Any], count: NDArray[Any], scored: NDArray[np.bool_]) -> NDArray[np.float64]:
    out = np.full(len(total), np.nan)
    np.divide(total, count, out=out, where=scored)
    return out

# SPDX-License-Identifier: Apache-2.0
"""Selects the path to train on for each task (section 3.3, and the random baseline of section 4.5.2).

All strategies choose among the same *eligible* paths, and thus differ only in their choice. A path is
eligible if its verdict is right (the paper's evaluation set), it is not truncated at the length limit, it has
a closing think tag, and it has at least one reasoning and one answer token. The last three conditions are not
in the paper: a truncated text would teach the model never to stop, and R* is undefined without both parts or
without the tag that separates them.

Ties: higher validity, then fewer tokens, then the lower sample index.

Optional minima of R* and its factors (not in the paper) make further paths ineligible for all strategies.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reasongrm_nemo.data.records import AnswerTask, JudgeTask, ReasoningPath, SftExample
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.rstar.score import score_sums
from reasongrm_nemo.rstar.table import PathTable, Rows

STRATEGIES = ("r_star", "random", "shortest", "all")

INELIGIBLE = (
    "wrong",
    "no_verdict",
    "cut_off",
    "unscored",
    "no_think_tags",
    "no_reasoning",
    "no_answer",
    "low_r_star",
    "low_self_consistency",
    "low_validity",
)
"""Reasons why a path is ineligible; the first that holds counts. `wrong`: the verdict is not right."""


class Floors(NamedTuple):
    """Minimum R*, self-consistency and validity of an eligible path; 0: no minimum."""

    r_star: float = 0.0
    self_consistency: float = 0.0
    validity: float = 0.0


NO_FLOORS = Floors()


class Selector:
    """Chooses among the paths of a table.

    Args:
        table: paths of any number of tasks.
        seed: the run's seed, for `random`.
        floors: minima that an eligible path must reach.

    Attributes:
        reason: (N,) int64, 0 for an eligible path, else 1 + the index in `INELIGIBLE`.
    """

    def __init__(self, table: PathTable, seed: int = 0, floors: Floors = NO_FLOORS) -> None:
        self.table, self._seed = table, seed
        self.reason = _reasons(table, floors)
        self._draws: list[int] | None = None

    @property
    def eligible(self) -> Rows:
        """Row numbers of the eligible paths, ascending."""
        return np.flatnonzero(self.reason == 0)

    def choose(self, strategy: str = "r_star", top_k: int = 1) -> Rows:
        """Choose paths; return their row numbers, sorted by task id and sample.

        Args:
            strategy: one of `STRATEGIES`.
            top_k: number of paths per task, the best by the strategy's order; `all` keeps all eligible ones.

        Raises:
            ValueError: unknown strategy, or `top_k` below 1.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        rows = self.eligible if strategy == "all" else self._best(strategy, top_k)
        order: Rows = np.lexsort((self.table.sample[rows], self.table.id_order[rows]))
        return np.take(rows, order)

    def _best(self, strategy: str, top_k: int) -> Rows:
        rows = self.eligible
        task, sample = self.table.task[rows], self.table.sample[rows]
        length, validity = self.table.length[rows], self.table.validity[rows]
        keys: tuple[NDArray[np.generic], ...]  # the first key decides
        if strategy == "r_star":
            keys = (-self.table.score[rows], -validity, length, sample)
        elif strategy == "shortest":
            keys = (length, -validity, sample)
        elif strategy == "random":
            keys = (np.array(self._random(rows), dtype=np.int64), sample)
        else:
            known = ", ".join(STRATEGIES)
            raise ValueError(f"Unknown selection strategy '{strategy}'; known are {known}")
        order = np.lexsort((*keys[::-1], task))
        starts = np.flatnonzero(np.diff(task[order], prepend=-1))
        place = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
        best: Rows = np.take(rows, order[place < top_k])
        return best

    def _random(self, rows: Rows) -> list[int]:
        """Hashes whose minimum is a uniform choice, independent of order, sharding and world size."""
        if self._draws is None:
            names, tasks = self.table.task_ids, self.table.task[rows].tolist()
            self._draws = [
                derive_seed(self._seed, "random_path", names[task], sample)
                for task, sample in zip(tasks, self.table.sample[rows].tolist(), strict=True)
            ]
        return self._draws


def _reasons(table: PathTable, floors: Floors) -> NDArray[np.int64]:
    right = table.correct
    with np.errstate(invalid="ignore"):
        holds = [
            ~right & ~table.unread,
            ~right & table.unread,
            table.cut_off,
            table.unscored,
            table.untagged,
            table.reasoning_tokens < 1,
            table.answer_tokens < 1,
            table.score < floors.r_star,
            table.self_consistency < floors.self_consistency,
            table.validity < floors.validity,
        ]
    reason = np.zeros(len(table), dtype=np.int64)
    for code in range(len(INELIGIBLE), 0, -1):
        reason[holds[code - 1]] = code
    return reason


def ineligible(path: ReasoningPath, floors: Floors = NO_FLOORS) -> str | None:
    """The reason why a path is ineligible, one of `INELIGIBLE`, or None."""
    (code,) = Selector(PathTable.of([path]), floors=floors).reason
    return INELIGIBLE[code - 1] if code else None


def select_paths(
    paths: Iterable[ReasoningPath],
    strategy: str = "r_star",
    seed: int = 0,
    top_k: int = 1,
    floors: Floors = NO_FLOORS,
) -> list[ReasoningPath]:
    """Choose paths of each task that has an eligible one; return them sorted by task id and sample.

    For more paths than fit into memory, see `TableBuilder` and `Selector`.

    Args:
        paths: paths of any number of tasks, at most one per (task, sample), in any order.
        strategy: `r_star`, `random`, `shortest`, or `all` (all eligible ones).
        seed: the run's seed, for `random`.
        top_k: largest number of paths per task; ignored for `all`.
        floors: see `Selector`.

    Raises:
        ValueError: unknown strategy, or the same (task, sample) twice.
    """
    held = list(paths)
    return [held[row] for row in Selector(PathTable.of(held), seed, floors).choose(strategy, top_k)]


def to_sft_example(
    path: ReasoningPath, task: JudgeTask | AnswerTask, strategy: str = "r_star", response_prefix: str = ""
) -> SftExample:
    """Make the training example of a chosen path: the task's messages and the path as the assistant's turn.

    The part of the reasoning that belongs to the path's prompt (`begun`) is prepended to its text.

    Args:
        path: a path of `task`.
        task: the task.
        strategy: strategy that chose the path, for the record.
        response_prefix: end of the generation's prompt; prepended to paths of earlier versions, which do not
            record `begun`.

    Raises:
        ValueError: the path belongs to another task.
    """
    if path.task_id != task.id:
        raise ValueError(f"The path belongs to the task {path.task_id}, not to {task.id}")
    score = score_sums(path)
    before = response_prefix if path.begun is None else path.begun
    return SftExample(
        task_id=task.id,
        messages=[*task.messages, {"role": "assistant", "content": before + path.text}],
        r_star=score.score,
        self_consistency=score.self_consistency,
        validity=score.validity,
        strategy=strategy,
        begun=path.begun,
        token_ids=path.token_ids if path.begun is not None and path.tokenizer is not None else None,
        tokenizer=path.tokenizer,
    )

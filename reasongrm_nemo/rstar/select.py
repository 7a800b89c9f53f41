# SPDX-License-Identifier: Apache-2.0
"""Choosing the path each task is taught with (section 3.3, and the random baseline of section 4.5.2).

Every strategy chooses among the same *eligible* paths, so that comparisons between strategies differ in the
choice alone: right verdict (the paper's evaluation set), ended by itself rather than cut off at the length
limit, with at least one reasoning and one answer token (the last two are not in the paper: a cut-off text
would teach never to stop, and R* is not defined without both parts).

Ties: higher validity, then fewer tokens, then the lower sample index.

Optional floors under R* and its factors (not in the paper) make further paths ineligible, for every strategy
alike.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

from reasongrm_nemo.data.records import JudgeTask, ReasoningPath, SftExample
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.rstar.score import score_sums

STRATEGIES = ("r_star", "random", "shortest", "all")

MAX_SAMPLES = 2**16
"""Sample indices are below this, as the seeds of sampling require."""

Key = tuple[float, ...]
T = TypeVar("T")


class Floors(NamedTuple):
    """The least R*, self-consistency and validity a chosen path may have; 0 asks nothing."""

    r_star: float = 0.0
    self_consistency: float = 0.0
    validity: float = 0.0


NO_FLOORS = Floors()


def ineligible(path: ReasoningPath, floors: Floors = NO_FLOORS) -> str | None:
    """Why a path cannot be chosen, or None.

    One of `wrong`, `no_verdict`, `cut_off`, `no_reasoning`, `no_answer`, `low_r_star`,
    `low_self_consistency`, `low_validity`.
    """
    if not path.correct:
        return "no_verdict" if path.verdict is None else "wrong"
    if path.finish_reason == "length":
        return "cut_off"
    if path.reasoning_tokens < 1:
        return "no_reasoning"
    if path.answer_tokens < 1:
        return "no_answer"
    if any(floors):
        for name, value, floor in zip(Floors._fields, score_sums(path), floors, strict=True):
            if value < floor:
                return f"low_{name}"
    return None


def ranking(strategy: str, seed: int = 0) -> Callable[[ReasoningPath], Key]:
    """The key by which a strategy prefers paths of one task: the smallest wins.

    Raises:
        ValueError: unknown strategy, or `all`, which ranks nothing.
    """

    def ties(path: ReasoningPath) -> Key:
        return (-score_sums(path).validity, path.reasoning_tokens + path.answer_tokens, path.sample)

    def r_star(path: ReasoningPath) -> Key:
        score = score_sums(path)
        length = path.reasoning_tokens + path.answer_tokens
        return (-score.score, -score.validity, length, path.sample)

    def shortest(path: ReasoningPath) -> Key:
        return (path.reasoning_tokens + path.answer_tokens, *ties(path))

    def random(path: ReasoningPath) -> Key:
        # The least of independent hashes is a uniform choice that no order, sharding or world size changes.
        return (derive_seed(seed, "random_path", path.task_id, path.sample), path.sample)

    keys = {"r_star": r_star, "shortest": shortest, "random": random}
    if strategy not in keys:
        raise ValueError(f"Unknown selection strategy '{strategy}'; known are {', '.join(STRATEGIES)}")
    return keys[strategy]


class Selector(Generic[T]):
    """Chooses among paths that come one by one, in any order, and keeps only what stands for the chosen.

    Args:
        strategy: one of `STRATEGIES`.
        seed: the run's seed, for `random`.
        top_k: so many paths a task, the best by the strategy's order; `all` keeps every eligible one.
        floors: see `ineligible`.

    Raises:
        ValueError: unknown strategy, or `top_k` below 1.
    """

    def __init__(
        self, strategy: str = "r_star", seed: int = 0, top_k: int = 1, floors: Floors = NO_FLOORS
    ) -> None:
        if top_k < 1:
            raise ValueError(f"At least one path a task is chosen, got top_k {top_k}")
        self._key = None if strategy == "all" else ranking(strategy, seed)
        self._top_k, self._floors = top_k, floors
        self._seen: dict[str, int] = {}  # task -> a bit for each sample
        self._best: dict[str, list[tuple[Key, T]]] = {}

    def add(self, path: ReasoningPath, item: T) -> None:
        """Consider a path, for which `item` (the path itself, its place in a file) may be chosen.

        Raises:
            ValueError: the same (task, sample) twice, or a sample index past `MAX_SAMPLES`.
        """
        if path.sample >= MAX_SAMPLES:
            raise ValueError(f"Task {path.task_id} has sample {path.sample}, past {MAX_SAMPLES - 1}")
        seen, bit = self._seen.get(path.task_id, 0), 1 << path.sample
        if seen & bit:
            raise ValueError(f"Task {path.task_id} has sample {path.sample} twice")
        self._seen[path.task_id] = seen | bit
        if ineligible(path, self._floors):
            return
        held = self._best.setdefault(path.task_id, [])
        # keys end with the sample, so no two are alike and items are never compared
        insort(held, ((path.sample,) if self._key is None else self._key(path), item), key=_rank)
        if self._key is not None:
            del held[self._top_k :]

    def chosen(self) -> list[T]:
        """The items of the chosen paths, by task id and sample."""
        return [
            item
            for task in sorted(self._best)
            for _, item in sorted(self._best[task], key=lambda pair: pair[0][-1])
        ]

    def by_task(self) -> dict[str, list[T]]:
        """Task -> its chosen items, the best first; tasks without any are left out."""
        return {task: [item for _, item in held] for task, held in self._best.items()}


def _rank(pair: tuple[Key, T]) -> Key:
    return pair[0]


def select_paths(
    paths: Iterable[ReasoningPath],
    strategy: str = "r_star",
    seed: int = 0,
    top_k: int = 1,
    floors: Floors = NO_FLOORS,
) -> list[ReasoningPath]:
    """The chosen paths of each task that has an eligible one, ordered by task id and sample.

    Paths may come in any order and are not kept in memory unless chosen.

    Args:
        paths: of any number of tasks, at most one per (task, sample).
        strategy: `r_star`, `random`, `shortest`, or `all` (every eligible one).
        seed: the run's seed, for `random`.
        top_k: so many paths a task at most, but for `all`.
        floors: see `ineligible`.

    Raises:
        ValueError: unknown strategy, or the same (task, sample) twice.
    """
    selector: Selector[ReasoningPath] = Selector(strategy, seed, top_k, floors)
    for path in paths:
        selector.add(path, path)
    return selector.chosen()


def to_sft_example(
    path: ReasoningPath, task: JudgeTask, strategy: str = "r_star", response_prefix: str = ""
) -> SftExample:
    """The training example for a chosen path: the task's messages and the path as the assistant's turn.

    Args:
        path: a path of `task`.
        task: the task.
        strategy: how the path was chosen, for the record.
        response_prefix: what the prompt of the generation ended with (say `<think>` and a line feed): the
            path's text goes on from there, so it is put back in front.

    Raises:
        ValueError: the path belongs to another task.
    """
    if path.task_id != task.id:
        raise ValueError(f"The path belongs to the task {path.task_id}, not to {task.id}")
    score = score_sums(path)
    return SftExample(
        task_id=task.id,
        messages=[*task.messages, {"role": "assistant", "content": response_prefix + path.text}],
        r_star=score.score,
        self_consistency=score.self_consistency,
        validity=score.validity,
        strategy=strategy,
    )

# SPDX-License-Identifier: Apache-2.0
"""Choosing the path each task is taught with (section 3.3, and the random baseline of section 4.5.2).

Every strategy chooses among the same *eligible* paths, so that comparisons between strategies differ in the
choice alone: right verdict (the paper's evaluation set), ended by itself rather than cut off at the length
limit, with at least one reasoning and one answer token (the last two are not in the paper: a cut-off text
would teach never to stop, and R* is not defined without both parts).

Ties: higher validity, then fewer tokens, then the lower sample index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from reasongrm_nemo.data.records import JudgeTask, ReasoningPath, SftExample
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.rstar.score import score_sums

STRATEGIES = ("r_star", "random", "shortest", "all")

Key = tuple[float, ...]


def ineligible(path: ReasoningPath) -> str | None:
    """Why a path cannot be chosen, or None: `wrong`, `no_verdict`, `cut_off`, `no_reasoning`, `no_answer`."""
    if not path.correct:
        return "no_verdict" if path.verdict is None else "wrong"
    if path.finish_reason == "length":
        return "cut_off"
    if path.reasoning_tokens < 1:
        return "no_reasoning"
    return "no_answer" if path.answer_tokens < 1 else None


def ranking(strategy: str, seed: int = 0) -> Callable[[ReasoningPath], Key]:
    """The key by which a strategy prefers paths of one task: the smallest wins.

    Raises:
        ValueError: unknown strategy, or `all`, which ranks nothing.
    """

    def ties(path: ReasoningPath) -> Key:
        return (-score_sums(path).validity, path.reasoning_tokens + path.answer_tokens, path.sample)

    def r_star(path: ReasoningPath) -> Key:
        return (-score_sums(path).score, *ties(path))

    def shortest(path: ReasoningPath) -> Key:
        return (path.reasoning_tokens + path.answer_tokens, *ties(path))

    def random(path: ReasoningPath) -> Key:
        # The least of independent hashes is a uniform choice that no order, sharding or world size changes.
        return (derive_seed(seed, "random_path", path.task_id, path.sample), path.sample)

    keys = {"r_star": r_star, "shortest": shortest, "random": random}
    if strategy not in keys:
        raise ValueError(f"Unknown selection strategy '{strategy}'; known are {', '.join(STRATEGIES)}")
    return keys[strategy]


def select_paths(
    paths: Iterable[ReasoningPath], strategy: str = "r_star", seed: int = 0
) -> list[ReasoningPath]:
    """The chosen path of each task that has an eligible one, ordered by task id and sample.

    Paths may come in any order and are not kept in memory unless chosen.

    Args:
        paths: of any number of tasks, at most one per (task, sample).
        strategy: `r_star`, `random`, `shortest` (one path a task) or `all` (every eligible one).
        seed: the run's seed, for `random`.

    Raises:
        ValueError: unknown strategy, or the same (task, sample) twice.
    """
    key = None if strategy == "all" else ranking(strategy, seed)
    seen: set[tuple[str, int]] = set()
    best: dict[str, tuple[Key, ReasoningPath]] = {}
    every: list[ReasoningPath] = []
    for path in paths:
        if (path.task_id, path.sample) in seen:
            raise ValueError(f"Task {path.task_id} has sample {path.sample} twice")
        seen.add((path.task_id, path.sample))
        if ineligible(path):
            continue
        if key is None:
            every.append(path)
            continue
        rank = key(path)
        if path.task_id not in best or rank < best[path.task_id][0]:
            best[path.task_id] = (rank, path)
    chosen = every if key is None else [path for _, path in best.values()]
    return sorted(chosen, key=lambda path: (path.task_id, path.sample))


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

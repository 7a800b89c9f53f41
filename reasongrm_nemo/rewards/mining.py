# SPDX-License-Identifier: Apache-2.0
"""Hard cases (section 3.4, step 1): tasks whose N answers are not all right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from reasongrm_nemo.data.records import HardTask, JudgeTask, ReasoningPath, Side
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.rstar.select import Selector
from reasongrm_nemo.rstar.table import VERDICTS, PathTable

T = TypeVar("T")


@dataclass(frozen=True)
class HardCase(Generic[T]):
    """A hard task's id, N verdicts by sample, share of right ones, and a right path (text or place)."""

    task_id: str
    answers: tuple[Side | None, ...]
    accuracy: float
    rationale: T | None


def find_hard(table: PathTable) -> list[HardCase[int]]:
    """Find the tasks whose answers are not all right, ordered by task id.

    Includes tasks that are never right: the paper's condition is "not entirely correct".

    Args:
        table: the N answers of each task, in any order.

    Returns:
        Cases whose rationale is the table's `place` of the right path with the highest R* (ties as in
        `rstar.select`). If no right path has an R* (a model without think tags), the first right one that is
        not truncated; None if there is none.
    """
    whole = np.flatnonzero(table.correct & ~table.cut_off)
    first = whole[np.argsort(-table.sample[whole])]  # the lowest sample comes last and wins in `best`
    chosen = np.concatenate([first, Selector(table).choose("r_star")])
    best = {table.task[row]: int(table.place[row]) for row in chosen}
    order = np.lexsort((table.sample, table.id_order))
    starts = np.flatnonzero(np.diff(table.task[order], prepend=-1))
    cases = []
    for rows in np.split(order, starts[1:]) if len(order) else []:
        right = int(table.correct[rows].sum())
        if right < len(rows):
            task = table.task[rows[0]]
            verdicts = tuple(VERDICTS[code] for code in table.verdict[rows].tolist())
            cases.append(HardCase(table.task_ids[task], verdicts, right / len(rows), best.get(task)))
    return cases


def mine_hard_cases(paths: Iterable[ReasoningPath]) -> list[HardCase[str]]:
    """As `find_hard`, for paths in memory, with their texts as rationales.

    Args:
        paths: the N answers of each task, in any order.

    Raises:
        ValueError: the same (task, sample) twice.
    """
    held = list(paths)
    return [
        HardCase(
            case.task_id,
            case.answers,
            case.accuracy,
            None if case.rationale is None else held[case.rationale].text,
        )
        for case in find_hard(PathTable.of(held))
    ]


def hard_task(task: JudgeTask, case: HardCase[Any], rationale: str | None) -> HardTask:
    """The record of a hard case, for the last training stage."""
    extra = {"answers": list(case.answers), "accuracy": case.accuracy, "rationale": rationale}
    return HardTask(**{**task.to_dict(), **extra})


def to_hard_tasks(
    cases: Iterable[HardCase[str]],
    tasks: Iterable[JudgeTask],
    rationales: Mapping[str, str] | None = None,
) -> list[HardTask]:
    """The mined cases as records, in the order of `tasks`.

    Args:
        cases: from `mine_hard_cases`.
        tasks: all tasks that were mined.
        rationales: reference paths by task id (chosen by R* for fine-tuning), preferred over those of the
            cases.

    Raises:
        ValueError: a case's task is not among `tasks`.
    """
    by_id = {case.task_id: case for case in cases}
    hard = []
    for task in tasks:
        case = by_id.pop(task.id, None)
        if case is not None:
            hard.append(hard_task(task, case, (rationales or {}).get(task.id, case.rationale)))
    if by_id:
        raise ValueError(f"{len(by_id)} mined tasks are unknown, among them {min(by_id)}")
    return hard


def choose_hard(
    cases: Sequence[HardCase[T]],
    sources: Mapping[str, str],
    seed: int,
    bands: Sequence[tuple[float, float]] = (),
    drop_never_right: bool = False,
    max_per_source: int | None = None,
) -> tuple[list[HardCase[T]], Counter[str]]:
    """Filter hard cases (an addition to the paper); return the kept cases, in order, and drops by reason.

    Args:
        cases: from `mine_hard_cases`.
        sources: task id -> source, for every case.
        seed: the run's seed; the choice of a source's tasks depends only on the seed and the tasks.
        bands: inclusive ranges of accuracy, one of which must contain the task's; empty: any accuracy.
        drop_never_right: drop tasks of accuracy 0.
        max_per_source: largest number of tasks per source, after the other rules; None: no limit.

    Raises:
        ValueError: `max_per_source` is below 1.
    """
    if max_per_source is not None and max_per_source < 1:
        raise ValueError(f"A source keeps at least one task, got max_per_source {max_per_source}")
    drops: Counter[str] = Counter()
    kept = []
    for case in cases:
        if drop_never_right and case.accuracy == 0:
            drops["task never right"] += 1
        elif bands and not any(low <= case.accuracy <= high for low, high in bands):
            drops["task outside mine.bands"] += 1
        else:
            kept.append(case)
    if max_per_source is None:
        return kept, drops
    by_source: dict[str, list[tuple[int, str]]] = {}
    for case in kept:
        rank = (derive_seed(seed, "hard_cap", case.task_id), case.task_id)
        by_source.setdefault(sources[case.task_id], []).append(rank)
    within = {name for ranks in by_source.values() for _, name in sorted(ranks)[:max_per_source]}
    if len(within) < len(kept):
        drops["task past mine.max_per_source"] = len(kept) - len(within)
    return [case for case in kept if case.task_id in within], drops

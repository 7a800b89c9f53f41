# SPDX-License-Identifier: Apache-2.0
"""Hard cases (section 3.4, step 1): the tasks whose N answers are not all right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reasongrm_nemo.data.records import HardTask, JudgeTask, ReasoningPath, Side
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.rstar.select import ineligible, ranking


@dataclass(frozen=True)
class HardCase:
    """A hard task's id with its N verdicts by sample, the share that is right, and a right path if any."""

    task_id: str
    answers: tuple[Side | None, ...]
    accuracy: float
    rationale: str | None


def mine_hard_cases(paths: Iterable[ReasoningPath]) -> list[HardCase]:
    """The tasks whose answers are not entirely right, ordered by task id.

    A task that is never right is hard too: the paper's condition is "not entirely correct".  The rationale
    is the right path with the highest R* among the N (ties as in `rstar.select`), None if there is none.

    Args:
        paths: the N answers of each task, in any order.

    Raises:
        ValueError: the same (task, sample) twice.
    """
    key = ranking("r_star")
    verdicts: dict[str, dict[int, tuple[Side | None, bool]]] = {}
    best: dict[str, tuple[tuple[float, ...], str]] = {}
    for path in paths:
        samples = verdicts.setdefault(path.task_id, {})
        if path.sample in samples:
            raise ValueError(f"Task {path.task_id} has sample {path.sample} twice")
        samples[path.sample] = (path.verdict, path.correct)
        if ineligible(path) is None:
            rank = key(path)
            if path.task_id not in best or rank < best[path.task_id][0]:
                best[path.task_id] = (rank, path.text)
    cases = []
    for task_id in sorted(verdicts):
        answers = [verdicts[task_id][sample] for sample in sorted(verdicts[task_id])]
        right = sum(correct for _, correct in answers)
        if right < len(answers):
            cases.append(
                HardCase(
                    task_id=task_id,
                    answers=tuple(verdict for verdict, _ in answers),
                    accuracy=right / len(answers),
                    rationale=best[task_id][1] if task_id in best else None,
                )
            )
    return cases


def to_hard_tasks(
    cases: Iterable[HardCase],
    tasks: Iterable[JudgeTask],
    rationales: Mapping[str, str] | None = None,
) -> list[HardTask]:
    """The mined cases as records for the last training stage, in the order of `tasks`.

    Args:
        cases: from `mine_hard_cases`.
        tasks: all tasks that were asked.
        rationales: reference paths by task id (those R* chose for the fine-tuning), preferred over the
            case's own.

    Raises:
        ValueError: a case's task is not among `tasks`.
    """
    by_id = {case.task_id: case for case in cases}
    hard = []
    for task in tasks:
        case = by_id.pop(task.id, None)
        if case is None:
            continue
        found = {
            "answers": list(case.answers),
            "accuracy": case.accuracy,
            "rationale": (rationales or {}).get(task.id, case.rationale),
        }
        hard.append(HardTask(**{**task.to_dict(), **found}))
    if by_id:
        raise ValueError(f"{len(by_id)} mined tasks are unknown, among them {min(by_id)}")
    return hard


def choose_hard(
    hard: Sequence[HardTask],
    seed: int,
    bands: Sequence[tuple[float, float]] = (),
    drop_never_right: bool = False,
    max_per_source: int | None = None,
) -> tuple[list[HardTask], Counter[str]]:
    """Hard tasks narrowed down, which the paper does not do: what is kept, in order, and drops by reason.

    Args:
        hard: from `to_hard_tasks`.
        seed: the run's seed; which tasks of a source stay depends on it and on the task alone.
        bands: ranges of accuracy, both ends included, of which one must hold the task; none: any.
        drop_never_right: leave out tasks of accuracy 0.
        max_per_source: at most so many tasks of a source, after the other rules; None: any number.

    Raises:
        ValueError: the cap is below 1.
    """
    if max_per_source is not None and max_per_source < 1:
        raise ValueError(f"A source keeps at least one task, got max_per_source {max_per_source}")
    drops: Counter[str] = Counter()
    kept = []
    for task in hard:
        if drop_never_right and task.accuracy == 0:
            drops["task never right"] += 1
        elif bands and not any(low <= task.accuracy <= high for low, high in bands):
            drops["task outside mine.bands"] += 1
        else:
            kept.append(task)
    if max_per_source is None:
        return kept, drops
    by_source: dict[str, list[tuple[int, str]]] = {}
    for task in kept:
        by_source.setdefault(task.source, []).append((derive_seed(seed, "hard_cap", task.id), task.id))
    within = {name for ranks in by_source.values() for _, name in sorted(ranks)[:max_per_source]}
    if len(within) < len(kept):
        drops["task past mine.max_per_source"] = len(kept) - len(within)
    return [task for task in kept if task.id in within], drops

# SPDX-License-Identifier: Apache-2.0
"""Hard cases (section 3.4, step 1): the tasks whose N answers are not all right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reasongrm_nemo.data.records import HardTask, JudgeTask, ReasoningPath, Side
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

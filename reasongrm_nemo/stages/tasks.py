# SPDX-License-Identifier: Apache-2.0
"""Reads a stage's tasks and chooses those of a shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from reasongrm_nemo.data import AnswerTask, JudgeTask, any_task_from_dict, derive_seed, task_from_dict
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.lines import read_dicts

Task: TypeAlias = JudgeTask | AnswerTask
T = TypeVar("T", bound=Task)


def load_tasks(path: Path, skip: int = 0, take: int | None = None) -> list[JudgeTask]:
    """Read judge tasks from a file, skipping the first `skip`, at most `take` of them (None: all).

    Raises:
        UserError: no task is left, an id occurs twice, or a line is not a task.
    """
    return _load(path, skip, take, task_from_dict)


def load_any_tasks(path: Path, skip: int = 0, take: int | None = None) -> list[Task]:
    """As `load_tasks`, but also accepts tasks with open answers."""
    return _load(path, skip, take, any_task_from_dict)


def _load(path: Path, skip: int, take: int | None, make: Callable[[Any, str], T]) -> list[T]:
    read = (make(data, where) for where, data in read_dicts(path))
    tasks = list(islice(read, skip, None if take is None else skip + take))
    if not tasks:
        raise UserError(f"{path} has no tasks" + (f" after the first {skip} (skip_tasks)" if skip else ""))
    seen: set[str] = set()
    for task in tasks:
        if task.id in seen:
            raise UserError(f"{path}: the task id {task.id} occurs twice; ids must be unique")
        seen.add(task.id)
    return tasks


def parse_shard(text: str | None) -> tuple[int, int]:
    """Parse a validated "i/n" to index (from 1) and count; None is 1/1."""
    index, count = (text or "1/1").split("/")
    return int(index), int(count)


def shard_of(task_id: str, count: int) -> int:
    """The shard of a task, from 1, by a hash of its id; independent of other tasks and their order."""
    return derive_seed(0, "shard", task_id) % count + 1


def take_shard(tasks: Iterable[T], shard: str | None) -> list[T]:
    """The tasks of one shard, in order; may be empty."""
    index, count = parse_shard(shard)
    return [task for task in tasks if count == 1 or shard_of(task.id, count) == index]

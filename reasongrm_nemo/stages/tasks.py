# SPDX-License-Identifier: Apache-2.0
"""Reading a stage's share of the judge tasks, and putting shards of answered ones together."""

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
    """The judge tasks of a file after the first `skip`, at most `take` of them (None: all).

    Raises:
        UserError: none is left, an id comes twice, or a line is not a task.
    """
    return _load(path, skip, take, task_from_dict)


def load_any_tasks(path: Path, skip: int = 0, take: int | None = None) -> list[Task]:
    """As `load_tasks`, where tasks with open answers will do too."""
    return _load(path, skip, take, any_task_from_dict)


def _load(path: Path, skip: int, take: int | None, make: Callable[[Any, str], T]) -> list[T]:
    read = (make(data, where) for where, data in read_dicts(path))
    tasks = list(islice(read, skip, None if take is None else skip + take))
    if not tasks:
        raise UserError(f"{path} has no tasks" + (f" after the first {skip} (skip_tasks)" if skip else ""))
    seen: set[str] = set()
    for task in tasks:
        if task.id in seen:
            raise UserError(f"{path}: the task id {task.id} comes twice; ids must differ")
        seen.add(task.id)
    return tasks


def parse_shard(text: str | None) -> tuple[int, int]:
    """Index (from 1) and count of a recipe's "i/n", which is checked already; None is the whole, 1/1."""
    index, count = (text or "1/1").split("/")
    return int(index), int(count)


def shard_of(task_id: str, count: int) -> int:
    """The shard, from 1, of a task: by a hash of its id, so that other tasks and their order move nothing."""
    return derive_seed(0, "shard", task_id) % count + 1


def take_shard(tasks: Iterable[T], shard: str | None) -> list[T]:
    """The tasks of one shard, in order; there may be none."""
    index, count = parse_shard(shard)
    return [task for task in tasks if count == 1 or shard_of(task.id, count) == index]

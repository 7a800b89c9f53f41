# SPDX-License-Identifier: Apache-2.0
"""Reading a stage's share of the judge tasks."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from reasongrm_nemo.data import JudgeTask, read_tasks
from reasongrm_nemo.errors import UserError


def load_tasks(path: Path, skip: int = 0, take: int | None = None) -> list[JudgeTask]:
    """The tasks of a file after the first `skip`, at most `take` of them (None: all).

    Raises:
        UserError: none is left, an id comes twice, or a line is not a task.
    """
    tasks = list(islice(read_tasks(path), skip, None if take is None else skip + take))
    if not tasks:
        raise UserError(f"{path} has no tasks" + (f" after the first {skip} (skip_tasks)" if skip else ""))
    seen: set[str] = set()
    for task in tasks:
        if task.id in seen:
            raise UserError(f"{path}: the task id {task.id} comes twice; ids must differ")
        seen.add(task.id)
    return tasks

# SPDX-License-Identifier: Apache-2.0
"""Selects the tasks of each step: a new seeded order per pass, independent of the number of ranks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.data.jsonl import read_tasks
from reasongrm_nemo.data.records import JudgeTask
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.grpo.steps import grpo_steps


def taken(path: Path, skip: int, take: int | None, left_out: Collection[int] = ()) -> list[JudgeTask]:
    """Read a file's tasks from index ``skip`` on, at most ``take`` of them, without those left out.

    Args:
        path: JSON Lines of `JudgeTask` or `HardTask`.
        skip: number of tasks to skip at the start of the file.
        take: number of tasks to take, counting those left out; None takes all.
        left_out: indices in the file of tasks that the stage has dropped.
    """
    chosen = islice(enumerate(read_tasks(path)), skip, None if take is None else skip + take)
    return [task for index, task in chosen if index not in left_out]


def with_steps(recipe: DictConfig, tasks: int) -> DictConfig:
    """The recipe with ``grpo.epochs`` converted to ``grpo.steps``.

    Args:
        recipe: resolved recipe.
        tasks: number of training tasks.
    """
    steps = grpo_steps(recipe.grpo, tasks)
    plain: Any = OmegaConf.to_container(recipe)
    plain["grpo"] |= {"steps": steps, "epochs": None}
    return OmegaConf.create(plain)


class TaskOrder:
    """Endless passes over the tasks, cut into steps.

    Args:
        tasks: tasks in the order of the file.
        per_step: tasks per step.
        seed: the run's seed.
        shuffle: False keeps the order of the file in every pass.
    """

    def __init__(self, tasks: Sequence[JudgeTask], per_step: int, seed: int, shuffle: bool) -> None:
        self.tasks, self.per_step, self.seed, self.shuffle = tasks, per_step, seed, shuffle
        self._pass = lru_cache(maxsize=2)(self._order)

    def take(self, first: int) -> list[JudgeTask]:
        """The next ``per_step`` tasks from position ``first`` on, counted over all passes."""
        places = (divmod(place, len(self.tasks)) for place in range(first, first + self.per_step))
        return [self.tasks[self._pass(number)[index]] for number, index in places]

    def _order(self, number: int) -> list[int]:
        places = list(range(len(self.tasks)))
        if self.shuffle:
            places.sort(key=lambda i: derive_seed(self.seed, "grpo order", self.tasks[i].id, number))
        return places

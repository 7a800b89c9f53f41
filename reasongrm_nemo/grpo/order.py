# SPDX-License-Identifier: Apache-2.0
"""Which tasks a step rolls out: a new seeded order each pass, whatever the number of ranks."""

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
    """The tasks of a file after the first ``skip``, ``take`` of them (None: all), but for those left out.

    Args:
        path: JSON Lines of `JudgeTask` or `HardTask`.
        skip: how many at the file's start.
        take: how many at most, those left out counted.
        left_out: indices in the file of tasks that the stage has counted as unfit.
    """
    chosen = islice(enumerate(read_tasks(path)), skip, None if take is None else skip + take)
    return [task for index, task in chosen if index not in left_out]


def with_steps(recipe: DictConfig, tasks: int) -> DictConfig:
    """The recipe with ``grpo.steps`` in place of ``grpo.epochs``.

    Args:
        recipe: resolved.
        tasks: how many are trained on.
    """
    steps = grpo_steps(recipe.grpo, tasks)
    plain: Any = OmegaConf.to_container(recipe)
    plain["grpo"] |= {"steps": steps, "epochs": None}
    return OmegaConf.create(plain)


class TaskOrder:
    """Endless passes over the tasks, cut into steps.

    Args:
        tasks: in the order of the file.
        per_step: tasks of one step.
        seed: the run's.
        shuffle: False takes every pass in the order of the file.
    """

    def __init__(self, tasks: Sequence[JudgeTask], per_step: int, seed: int, shuffle: bool) -> None:
        self.tasks, self.per_step, self.seed, self.shuffle = tasks, per_step, seed, shuffle
        self._pass = lru_cache(maxsize=2)(self._order)

    def take(self, first: int) -> list[JudgeTask]:
        """A step's worth of tasks from place ``first`` on, counted over all passes."""
        places = (divmod(place, len(self.tasks)) for place in range(first, first + self.per_step))
        return [self.tasks[self._pass(number)[index]] for number, index in places]

    def _order(self, number: int) -> list[int]:
        places = list(range(len(self.tasks)))
        if self.shuffle:
            places.sort(key=lambda i: derive_seed(self.seed, "grpo order", self.tasks[i].id, number))
        return places

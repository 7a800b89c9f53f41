# SPDX-License-Identifier: Apache-2.0
"""The reward of a response: the paper's outcome reward, or a user's function (``grpo.reward``)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge.functions import load_function
from reasongrm_nemo.rewards.outcome import outcome_reward

OUTCOME = "outcome"
RewardFunction = Callable[[Any, Any], Any]
"""(`rollout.reading.Reading`, `JudgeTask`) -> a number, or (number, whether the response is right)."""


@dataclass(frozen=True)
class Reward:
    """A response's reward, and whether the response is right (None if the function does not say)."""

    value: float
    correct: bool | None


class Rewarder:
    """Rewards responses with the function that the recipe names.

    Args:
        name: `outcome` (section 3.2) or `module:function`.

    Raises:
        UserError: the module or function does not exist.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._function = _outcome if name == OUTCOME else load_function(name, "grpo.reward")

    def __call__(self, reading: Any, task: Any) -> Reward:
        """Compute the reward of one response.

        Raises:
            UserError: the function fails, or returns an invalid reward; names the task's id.
        """
        try:
            given = self._function(reading, task)
        except Exception as error:
            raise UserError(
                f"grpo.reward: {self._name} failed on task {task.id}: {type(error).__name__}: {error}"
            ) from error
        value, correct = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
        if not isinstance(value, Real) or not math.isfinite(value) or correct not in (True, False, None):
            raise UserError(
                f"grpo.reward: {self._name} returned {given!r} for task {task.id}; it must return a finite "
                "number, or (number, True, False or None)"
            )
        return Reward(float(value), None if correct is None else bool(correct))


def _outcome(reading: Any, task: Any) -> tuple[float, bool]:
    return outcome_reward(reading.verdict, task.label), reading.correct

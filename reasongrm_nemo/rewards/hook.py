# SPDX-License-Identifier: Apache-2.0
"""What a response is worth: the paper's outcome reward, or a user's own function (``grpo.reward``)."""

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
"""Of (reading, task): `rollout.reading.Reading` and `JudgeTask`; a number, or (number, right or not)."""


@dataclass(frozen=True)
class Reward:
    """What a response is worth, and whether it is right where the function knows."""

    value: float
    correct: bool | None


class Rewarder:
    """Rewards responses as the recipe says.

    Args:
        name: `outcome` (section 3.2) or `module:function`.

    Raises:
        UserError: no such module or function.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._function = _outcome if name == OUTCOME else load_function(name, "grpo.reward")

    def __call__(self, reading: Any, task: Any) -> Reward:
        """The reward of one response.

        Raises:
            UserError: the function fails, or gives something else than a reward; with the task's id.
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
                f"grpo.reward: {self._name} gave {given!r} for task {task.id}; it must give a finite number, "
                "or (number, True, False or None)"
            )
        return Reward(float(value), None if correct is None else bool(correct))


def _outcome(reading: Any, task: Any) -> tuple[float, bool]:
    return outcome_reward(reading.verdict, task.label), reading.correct

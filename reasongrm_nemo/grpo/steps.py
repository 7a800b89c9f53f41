# SPDX-License-Identifier: Apache-2.0
"""GRPO's step count, shared by trainer, progress display and planner."""

from __future__ import annotations

from typing import Any


def grpo_steps(grpo: Any, tasks: int) -> int:
    """``grpo.steps``, or the number of steps in ``grpo.epochs`` passes over all tasks."""
    if grpo.steps is not None:
        return int(grpo.steps)
    return -(-grpo.epochs * tasks // grpo.prompts_per_step)

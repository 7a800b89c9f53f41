# SPDX-License-Identifier: Apache-2.0
"""How many steps GRPO takes: stated here once for the trainer, its progress and the plan."""

from __future__ import annotations

from typing import Any


def grpo_steps(grpo: Any, tasks: int) -> int:
    """Steps of stage grpo: ``grpo.steps``, or what ``grpo.epochs`` passes over all tasks take."""
    if grpo.steps is not None:
        return int(grpo.steps)
    return -(-grpo.epochs * tasks // grpo.prompts_per_step)

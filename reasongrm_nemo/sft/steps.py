# SPDX-License-Identifier: Apache-2.0
"""SFT's step count, shared by trainer, schedule, progress display and planner."""

from __future__ import annotations

from typing import Any


def epoch_steps(examples: int, batch_size: int) -> int:
    """Steps of one pass over the examples; the last step trains on the remainder."""
    return -(-examples // batch_size)


def trained(examples: int, cfg: Any) -> int:
    """Expected number of examples to train on after ``cfg.validation`` holds out its share; at least 1."""
    share = cfg.validation.fraction if cfg.validation.every else 0.0
    return max(1, round(examples * (1.0 - share)))


def step_count(examples: int, cfg: Any) -> int:
    """Optimizer steps of a whole run over ``examples`` training examples; ``cfg``: the ``sft`` block."""
    return epoch_steps(examples, cfg.batch_size) * int(cfg.epochs)

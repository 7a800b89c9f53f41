# SPDX-License-Identifier: Apache-2.0
"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from omegaconf import DictConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def learning_rate_factor(step: int, total: int, optim: DictConfig) -> float:
    """Learning rate at ``step`` (from 0) divided by ``optim.lr``: linear warm-up, then constant or cosine."""
    if step < optim.warmup_steps:
        return (step + 1) / optim.warmup_steps
    if optim.schedule == "constant":
        return 1.0
    floor = optim.min_lr / optim.lr
    progress = min(1.0, (step - optim.warmup_steps) / max(1, total - 1 - optim.warmup_steps))
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def make_scheduler(optimizer: Optimizer, total: int, optim: DictConfig) -> LambdaLR:
    """Build PyTorch's scheduler for ``learning_rate_factor``."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, total, optim))

# SPDX-License-Identifier: Apache-2.0
"""How many steps SFT takes: stated here once for the trainer, its schedule, its progress and the plan."""

from __future__ import annotations

from typing import Any


def epoch_steps(examples: int, batch_size: int) -> int:
    """Steps of one pass over the examples; the last one trains on what is left, however few."""
    return -(-examples // batch_size)


def trained(examples: int, cfg: Any) -> int:
    """Of so many examples those that ``cfg.validation`` does not hold out, on average; one at least."""
    share = cfg.validation.fraction if cfg.validation.every else 0.0
    return max(1, round(examples * (1.0 - share)))


def step_count(examples: int, cfg: Any) -> int:
    """Optimizer steps of a whole run over so many training examples; ``cfg`` is the recipe's ``sft``."""
    return epoch_steps(examples, cfg.batch_size) * int(cfg.epochs)

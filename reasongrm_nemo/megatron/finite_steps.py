# SPDX-License-Identifier: Apache-2.0
"""Optimizer steps only where loss and gradient are numbers."""

from __future__ import annotations

import math
from typing import Any

from reasongrm_nemo.errors import StageFailed

_LIMIT = 3


class NotFinite(StageFailed):
    """Too many steps in a row had a loss or gradient that is no number; the trainer saves and ends."""


class FiniteSteps:
    """Skips and counts the optimizer steps whose loss or gradient is no number.

    megatron-core's own check is off (``nemo_config``): it would end the run at the first one.
    """

    def __init__(self) -> None:
        self.skipped = 0  # in a row

    def step(self, optimizer: Any, loss: float, norm: float | None) -> None:
        """Step, unless the loss or the gradient's norm is no number; both the same on every rank."""
        if math.isfinite(loss) and (norm is None or math.isfinite(norm)):
            optimizer.step()
            self.skipped = 0
        else:
            self.skipped += 1

    def check(self, step: int) -> None:
        """To be asked when a step is over.

        Args:
            step: the steps done, for the message.

        Raises:
            NotFinite: three in a row were skipped.
        """
        if self.skipped >= _LIMIT:
            raise NotFinite(
                f"step {step}: the loss or its gradient was not a number {self.skipped} times in a row"
            )

# SPDX-License-Identifier: Apache-2.0
"""Skips optimizer steps whose loss or gradient is not finite."""

from __future__ import annotations

import math
from typing import Any

from reasongrm_nemo.errors import StageFailed

_LIMIT = 3


class NotFinite(StageFailed):
    """Too many steps in a row had a non-finite loss or gradient; the trainer saves and stops."""


class FiniteSteps:
    """Skips and counts optimizer steps whose loss or gradient is not finite.

    megatron-core's check is off (``nemo_config``), because it would end the run at the first such step.
    """

    def __init__(self) -> None:
        self.skipped = 0  # in a row

    def step(self, optimizer: Any, loss: float, norm: float | None) -> None:
        """Step unless the loss or gradient norm, each the same on every rank, is not finite."""
        if math.isfinite(loss) and (norm is None or math.isfinite(norm)):
            optimizer.step()
            self.skipped = 0
        else:
            self.skipped += 1

    def check(self, step: int) -> None:
        """Raise if too many steps in a row were skipped; call after each step.

        Args:
            step: number of steps done, for the message.

        Raises:
            NotFinite: three in a row were skipped.
        """
        if self.skipped >= _LIMIT:
            raise NotFinite(
                f"step {step}: the loss or its gradient was not finite {self.skipped} times in a row"
            )

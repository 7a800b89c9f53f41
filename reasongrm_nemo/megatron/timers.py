# SPDX-License-Identifier: Apache-2.0
"""Measures a step's seconds by named phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timers:
    """Adds up wall-clock seconds per name until ``take``.

    Timed code must end with the device synchronized, which returning a number from the device ensures.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time spent inside the block to ``name``, also if the block raises."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - began

    def take(self) -> dict[str, float]:
        """Return ``{name_s: seconds}`` since the last call."""
        taken, self._seconds = self._seconds, {}
        return {f"{name}_s": seconds for name, seconds in taken.items()}

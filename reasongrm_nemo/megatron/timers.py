# SPDX-License-Identifier: Apache-2.0
"""Where a step's seconds go, by name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timers:
    """Adds up the wall seconds spent under each name until they are taken.

    What is timed must end with the device idle, as whatever returns a number of it does.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time inside as ``name``'s, an exception's too."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - began

    def take(self) -> dict[str, float]:
        """``{name_s: seconds}`` since the last take."""
        taken, self._seconds = self._seconds, {}
        return {f"{name}_s": seconds for name, seconds in taken.items()}

# SPDX-License-Identifier: Apache-2.0
"""Ending a run whose validation has stopped getting better."""

from __future__ import annotations


class EarlyStop:
    """Counts validations since the best one.

    Args:
        patience: so many without a better one are enough; 0: never.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best: float | None = None
        self.since = 0

    def note(self, score: float) -> None:
        """A validation's score, the higher the better."""
        if self.best is None or score > self.best:
            self.best, self.since = score, 0
        else:
            self.since += 1

    def reached(self) -> bool:
        """Whether to end."""
        return 0 < self.patience <= self.since

    def state_dict(self) -> dict[str, float | int | None]:
        """For the checkpoint."""
        return {"best": self.best, "since": self.since}

    def load_state_dict(self, state: dict[str, float | int | None]) -> None:
        """The inverse."""
        self.best, self.since = state["best"], int(state["since"] or 0)

# SPDX-License-Identifier: Apache-2.0
"""Early stopping: ends a run whose validation score has stopped improving."""

from __future__ import annotations


class EarlyStop:
    """Counts validations since the best one.

    Args:
        patience: number of validations without improvement after which to stop; 0: never stop.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best: float | None = None
        self.since = 0

    def note(self, score: float) -> None:
        """Record a validation score; higher is better."""
        if self.best is None or score > self.best:
            self.best, self.since = score, 0
        else:
            self.since += 1

    def reached(self) -> bool:
        """Whether to stop."""
        return 0 < self.patience <= self.since

    def state_dict(self) -> dict[str, float | int | None]:
        """State for the checkpoint."""
        return {"best": self.best, "since": self.since}

    def load_state_dict(self, state: dict[str, float | int | None]) -> None:
        """Restore what ``state_dict`` returned."""
        self.best, self.since = state["best"], int(state["since"] or 0)

# SPDX-License-Identifier: Apache-2.0
"""metrics.jsonl and validation.jsonl: one line of metrics per step, written by the first rank."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasongrm_nemo.files.figures import read_figures
from reasongrm_nemo.files.writes import write_text


class MetricsLog:
    """Appends each step's metrics to the files, which the command line follows, and to trackers.

    Args:
        folder: the artefact's folder; None on ranks that do not write.
        trackers: Lightning loggers that also get the metrics (see ``trackers``).
    """

    def __init__(self, folder: Path | None, trackers: Sequence[Any] = ()) -> None:
        self._folder, self._trackers = folder, trackers

    def resume(self, step: int) -> None:
        """Remove lines that a killed run wrote after ``step``, the checkpoint to resume from."""
        for path in self._paths():
            # a truncated last line is always after the checkpoint
            lines = [line for line, figures in read_figures(path) if figures["step"] <= step]
            write_text(path, "".join(lines))

    def log(self, step: int, figures: dict[str, Any]) -> None:
        """Log one step's metrics; a number that is not finite is written as null."""
        self._write("metrics.jsonl", step, figures, "")

    def log_validation(self, step: int, figures: dict[str, Any]) -> None:
        """Log the metrics of a validation after ``step``."""
        self._write("validation.jsonl", step, figures, "validation/")

    def close(self, good: bool = True) -> None:
        """Let the trackers send their remaining data."""
        for tracker in self._trackers:
            tracker.finalize("success" if good else "failed")

    def _paths(self) -> list[Path]:
        names = ("metrics.jsonl", "validation.jsonl")
        return [self._folder / name for name in names] if self._folder else []

    def _write(self, name: str, step: int, figures: dict[str, Any], prefix: str) -> None:
        if self._folder is None:
            return
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in figures.items()
        }
        with (self._folder / name).open("a", encoding="utf-8") as out:
            out.write(json.dumps({"step": step, "time": time.time()} | clean) + "\n")
            out.flush()
            os.fsync(out.fileno())
        known = {f"{prefix}{key}": value for key, value in clean.items() if isinstance(value, (int, float))}
        for tracker in self._trackers:
            tracker.log_metrics(known, step=step)

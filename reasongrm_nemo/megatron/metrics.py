# SPDX-License-Identifier: Apache-2.0
"""metrics.jsonl: a line of figures a step, written by the first rank."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from reasongrm_nemo.files import write_text


class MetricsLog:
    """Appends steps; the command line shows them as they come.

    Args:
        folder: of the artefact; None on ranks that do not write.
        tensorboard: write TensorBoard files beside it as well.
    """

    def __init__(self, folder: Path | None, tensorboard: bool) -> None:
        self._path = folder / "metrics.jsonl" if folder else None
        self._board: Any = None
        if folder and tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"))

    def resume(self, step: int) -> None:
        """Forget what a killed run wrote after ``step``, the checkpoint it resumes from."""
        if self._path is None:
            return
        lines = []
        if self._path.exists():
            for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True):
                # a torn last line is after the checkpoint in any case
                if line.endswith("\n") and json.loads(line)["step"] <= step:
                    lines.append(line)
        write_text(self._path, "".join(lines))

    def log(self, step: int, figures: dict[str, Any]) -> None:
        """One step's figures; a number that is not finite is written as null."""
        if self._path is None:
            return
        clean = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in figures.items()
        }
        with self._path.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"step": step, "time": time.time()} | clean) + "\n")
            out.flush()
            os.fsync(out.fileno())
        if self._board is not None:
            for name, value in clean.items():
                if value is not None:
                    self._board.add_scalar(name, value, step)
            self._board.flush()

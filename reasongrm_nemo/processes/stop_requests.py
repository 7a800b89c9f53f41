# SPDX-License-Identifier: Apache-2.0
"""Requests to stop a run early: by wall time, stop file or signal."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import read_object
from reasongrm_nemo.files.writes import write_json

STOP_FILE = "stop"
"""File in the runs folder that asks all running stages to save and stop; `stop.<name>` asks one stage."""
MARKER = "stopped.json"
"""File in a partial artefact whose stage was asked to stop and has saved; the same command resumes it."""
_JOB_START = "REASONGRM_JOB_START"
_DURATION = re.compile(r"(?:(\d+)[:-])?(\d+):([0-5]?\d):([0-5]?\d)")


class Stopped(Exception):
    """A stage was asked to stop and has saved its work; the command exits with status 0."""


def parse_duration(duration: str | int) -> int:
    """Parse "[DD:]HH:MM:SS" or Slurm's "DD-HH:MM:SS" to seconds; an integer is returned as it is.

    Raises:
        UserError: the format is different.
    """
    if isinstance(duration, int):
        return duration
    match = _DURATION.fullmatch(duration.strip())
    if match is None:
        raise UserError(f"{duration!r}; expected [DD:]HH:MM:SS, e.g. 03:45:00")
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def note_job_start() -> None:
    """Set the start of wall times for this process and its children.

    Uses REASONGRM_JOB_START (seconds since 1970), else Slurm's SLURM_JOB_START_TIME, else now.
    """
    os.environ.setdefault(_JOB_START, os.environ.get("SLURM_JOB_START_TIME") or str(time.time()))


class Limits:
    """Checks whether a stage has to save and stop.

    Args:
        runs_dir: folder of the stop file.
        must_save_by: "[DD:]HH:MM:SS" after the job's start, or None.
        now: the clock, in seconds since 1970.
        name: the artefact's name, to check the stop file for this stage as well.
    """

    def __init__(
        self,
        runs_dir: Path,
        must_save_by: str | int | None,
        now: Callable[[], float] = time.time,
        name: str | None = None,
    ) -> None:
        self._files = [stop_file(runs_dir), *([stop_file(runs_dir, name)] if name else [])]
        self._now = now
        self._deadline: float | None = None
        if must_save_by is not None:
            self._deadline = float(os.environ.get(_JOB_START) or now()) + parse_duration(must_save_by)

    def reached(self, needed_s: float = 0.0) -> str | None:
        """Return why to stop now, or None.

        Args:
            needed_s: seconds until the next call plus the time to save then.
        """
        for file in self._files:
            if file.exists():
                return f"the file {file} requests it"
        if self._deadline is not None and self._now() + needed_s >= self._deadline:
            return "checkpoints.checkpoint_must_save_by would pass before the next step is saved"
        return None


def mark(work: Path, reason: str, **figures: Any) -> None:
    """Write the marker to the partial artefact."""
    write_json(work / MARKER, {"reason": reason, "time": time.time(), **figures})


def marked(work: Path) -> dict[str, Any] | None:
    """The marker's content, or None."""
    path = work / MARKER
    return read_object(path) if path.exists() else None


def stop_file(runs_dir: Path, name: str | None = None) -> Path:
    """Path of the file that asks one stage, or all stages of the folder, to stop."""
    return Path(runs_dir) / (STOP_FILE if name is None else f"{STOP_FILE}.{name}")


def ask_on_signal(runs_dir: Path, name: str | None = None) -> Any:
    """Create the stop file on SIGUSR1; return the previous signal handler."""
    file = stop_file(runs_dir, name)
    return signal.signal(signal.SIGUSR1, lambda *_: file.touch())


@contextmanager
def stop_on_signal(runs_dir: Path, name: str | None = None) -> Iterator[None]:
    """Create the stop file on SIGUSR1 while the block runs, after removing stop files of earlier runs.

    In a Slurm job, SIGTERM does the same; Slurm sends it ahead of a preemption, leaving time to save.

    Args:
        runs_dir: the runs folder.
        name: the artefact's name, if other stages may run in the folder at the same time (tasks of a job
            array); signals then stop only this stage. A user's file `stop` stops all of them and stays
            until the next start.
    """
    file = stop_file(runs_dir, name)
    stop_file(runs_dir).unlink(missing_ok=True)
    for old in [file] if name else Path(runs_dir).glob(f"{STOP_FILE}.*"):
        old.unlink(missing_ok=True)
    before = {signal.SIGUSR1: ask_on_signal(runs_dir, name)}
    if os.environ.get("SLURM_JOB_ID"):
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, lambda *_: file.touch())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        file.unlink(missing_ok=True)

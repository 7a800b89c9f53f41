# SPDX-License-Identifier: Apache-2.0
"""When a run has to end before its work does: a wall time, a stop file, a signal."""

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
"""In the runs folder: whoever makes it asks all running stages to save and end; `stop.<name>` asks one."""
MARKER = "stopped.json"
"""In a partial artefact: its stage was asked to end and saved; the same command goes on from there."""
_JOB_START = "REASONGRM_JOB_START"
_DURATION = re.compile(r"(?:(\d+)[:-])?(\d+):([0-5]?\d):([0-5]?\d)")


class Stopped(Exception):
    """A stage was asked to end, and what it has done is safe; the command line ends with status 0."""


def parse_duration(duration: str | int) -> int:
    """Seconds of "[DD:]HH:MM:SS", or of Slurm's "DD-HH:MM:SS"; a whole number is seconds already.

    Raises:
        UserError: another form.
    """
    if isinstance(duration, int):
        return duration
    match = _DURATION.fullmatch(duration.strip())
    if match is None:
        raise UserError(f"{duration!r}, which is not of the form [DD:]HH:MM:SS, such as 03:45:00")
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def note_job_start() -> None:
    """Fix the moment that wall times count from, for this process and those it starts.

    It is what REASONGRM_JOB_START says (seconds since 1970), else Slurm's SLURM_JOB_START_TIME, else now.
    """
    os.environ.setdefault(_JOB_START, os.environ.get("SLURM_JOB_START_TIME") or str(time.time()))


class Limits:
    """Says whether a stage has to save and end.

    Args:
        runs_dir: where the stop file would be.
        must_save_by: "[DD:]HH:MM:SS" after the job's start, or None.
        now: the clock, in seconds since 1970.
        name: the artefact's, where one stage can be asked alone.
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
        """Why to stop now, or None.

        Args:
            needed_s: how long it would take to come here again and save then.
        """
        for file in self._files:
            if file.exists():
                return f"{file} asks for it"
        if self._deadline is not None and self._now() + needed_s >= self._deadline:
            return "checkpoints.checkpoint_must_save_by would pass before another step is saved"
        return None


def mark(work: Path, reason: str, **figures: Any) -> None:
    """Leave the marker in the partial artefact."""
    write_json(work / MARKER, {"reason": reason, "time": time.time(), **figures})


def marked(work: Path) -> dict[str, Any] | None:
    """What the marker says, or None."""
    path = work / MARKER
    return read_object(path) if path.exists() else None


def stop_file(runs_dir: Path, name: str | None = None) -> Path:
    """The file that asks the stage of that name, or every stage of the folder, to end."""
    return Path(runs_dir) / (STOP_FILE if name is None else f"{STOP_FILE}.{name}")


def ask_on_signal(runs_dir: Path, name: str | None = None) -> Any:
    """Let SIGUSR1 make the stop file; returns what it did before."""
    file = stop_file(runs_dir, name)
    return signal.signal(signal.SIGUSR1, lambda *_: file.touch())


@contextmanager
def stop_on_signal(runs_dir: Path, name: str | None = None) -> Iterator[None]:
    """While the block runs, SIGUSR1 makes the stop file; those that lay there before are removed first.

    So does SIGTERM in a Slurm job, which is sent before a preemption, with a while to save.

    Args:
        runs_dir: the runs folder.
        name: the artefact's, where other stages may run in the folder at the same time (the tasks of a job
            array): the signal then asks this one alone. A file `stop` of the user's is for all of them and
            stays until the next start.
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

# SPDX-License-Identifier: Apache-2.0
"""Folders of temporary files that go with the process that made them, however it went.

vLLM leaves sockets and a file in TMPDIR at each end, and killed as a group, semaphores in /dev/shm: four
files and one semaphore a server, as a run of a thousand steps with ten lost servers showed.  Standard library
only.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path

_PREFIXES = _SERVER, MEETING = "reasongrm-server-", "reasongrm-meeting-"
_SEMAPHORES = Path("/dev/shm")
# A socket's path has 107 bytes at most, and vLLM names one by 36 characters in this folder.
_LONGEST = 107 - len("/") - 36 - len("/") - len(_SERVER) - 8


def enter() -> None:
    """Take a folder of one's own as TMPDIR, for this process and its children; clear what dead ones left."""
    folder, _ = new_folder(_SERVER)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    # children inherit it, and name their semaphores by it
    multiprocessing.current_process()._config["semprefix"] = f"/{folder.name}"  # type: ignore[attr-defined]


def new_folder(prefix: str) -> tuple[Path, int]:
    """A folder that only this user can enter, and the descriptor that holds it; dead ones' are cleared."""
    sweep_dead_folders()
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=_base()))
        if (handle := _hold(folder)) is not None:
            return folder, handle


def _base() -> str:
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) <= _LONGEST else "/tmp"


def _hold(folder: Path) -> int | None:
    """Lock a folder until this process ends; None where another took it for a dead one's before that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks: it is cleared by nobody
            fcntl.flock(handle, fcntl.LOCK_EX)
    except FileNotFoundError:
        return None
    if folder.exists():
        return handle
    os.close(handle)
    return None


def sweep_dead_folders() -> None:
    """Remove the folders and semaphores of processes that are gone."""
    for base in {tempfile.gettempdir(), "/tmp"}:
        for folder in (path for prefix in _PREFIXES for path in Path(base).glob(f"{prefix}*")):
            with contextlib.suppress(OSError):  # another user's, or gone meanwhile
                _remove(folder)


def _remove(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(handle).st_uid != os.getuid():
            return
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for semaphore in _SEMAPHORES.glob(f"sem.{folder.name}-*"):
            semaphore.unlink(missing_ok=True)
        shutil.rmtree(folder)
    finally:
        os.close(handle)

# SPDX-License-Identifier: Apache-2.0
"""Temporary folders that are removed after their process has ended in any way.

vLLM leaves sockets and a file in TMPDIR when it exits, and semaphores in /dev/shm when killed as a group:
four files and one semaphore per server in a run of a thousand steps with ten lost servers.  Standard library
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
# A socket's path is limited to 107 bytes, and vLLM's socket names in this folder have 36 characters.
_LONGEST = 107 - len("/") - 36 - len("/") - len(_SERVER) - 8


def enter() -> None:
    """Use a new folder as TMPDIR for this process and its children; remove folders of dead processes."""
    folder, _ = new_folder(_SERVER)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    # children inherit this prefix for the names of their semaphores
    multiprocessing.current_process()._config["semprefix"] = f"/{folder.name}"  # type: ignore[attr-defined]


def new_folder(prefix: str) -> tuple[Path, int]:
    """Create a private folder and return it with the descriptor that locks it; sweeps dead folders."""
    sweep_dead_folders()
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=_base()))
        if (handle := _hold(folder)) is not None:
            return folder, handle


def _base() -> str:
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) <= _LONGEST else "/tmp"


def _hold(folder: Path) -> int | None:
    """Lock a folder until this process ends; None if another process swept the folder first."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):  # on a file system without locks, nobody sweeps the folder
            fcntl.flock(handle, fcntl.LOCK_EX)
    except FileNotFoundError:
        return None
    if folder.exists():
        return handle
    os.close(handle)
    return None


def sweep_dead_folders() -> None:
    """Remove the folders and semaphores of processes that have ended."""
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

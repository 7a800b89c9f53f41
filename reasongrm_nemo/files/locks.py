# SPDX-License-Identifier: Apache-2.0
"""Locks on a runs folder: one process at a time, or several on different artefacts."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import check_file


class RunsLock:
    """Locks a whole runs folder for one process, or single artefacts for several processes.

    The kernel frees the locks when their owner dies.

    Args:
        runs_dir: the runs folder.
        name: the artefact being made; None: lock the whole folder.
        reads: artefacts that must not be replaced meanwhile.
        elsewhere: the same in other runs folders.

    Raises:
        UserError: on entering, if another process holds a lock; the message names the process.
    """

    def __init__(
        self,
        runs_dir: Path,
        name: str | None = None,
        reads: Iterable[str] = (),
        elsewhere: Iterable[Path] = (),
    ) -> None:
        self.path, self._name, self._reads = runs_dir / ".lock", name, sorted(set(reads))
        others = (path for path in set(elsewhere) if path.parent.resolve() != runs_dir.resolve())
        self._elsewhere = sorted(path for path in others if path.exists())
        self._handles: list[int] = []

    def __enter__(self) -> RunsLock:
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._take(self.path, fcntl.LOCK_EX if self._name is None else fcntl.LOCK_SH, folder)
            if self._name is not None:
                locks = folder / ".locks"
                locks.mkdir(exist_ok=True)
                self._take(locks / self._name, fcntl.LOCK_EX, folder / self._name)
                for other in self._reads:
                    self._take(locks / other, fcntl.LOCK_SH, folder / other)
            for artefact in self._elsewhere:
                self._take(artefact.parent / ".lock", fcntl.LOCK_SH, artefact.parent)
                locks = artefact.parent / ".locks"
                locks.mkdir(exist_ok=True)
                self._take(locks / artefact.name, fcntl.LOCK_SH, artefact)
        except UserError:
            self._release()
            raise
        return self

    def _take(self, path: Path, kind: int, what: Path) -> None:
        if path.exists():
            check_file(path)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._handles.append(handle)
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(handle, 200).decode(errors="replace").strip()
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise UserError(f"{path}: this file system has no locks ({error.strerror})") from None
            raise UserError(
                f"{what} is in use by another run ({owner or 'process unknown'}); "
                "wait for it, end it, or give another runs_dir=..."
            ) from None
        if kind == fcntl.LOCK_EX or what == self.path.parent:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)

    def _release(self) -> None:
        for handle in self._handles:
            os.close(handle)
        self._handles = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

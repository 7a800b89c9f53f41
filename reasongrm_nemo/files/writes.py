# SPDX-License-Identifier: Apache-2.0
"""Writes that survive a kill: whole files, whole folders, and syncs to disk."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.lines import sync_directory
from reasongrm_nemo.files.refusals import sentence

if TYPE_CHECKING:
    from typing_extensions import Buffer
from reasongrm_nemo.files.disk import _SAID, full_disk, readable_bytes, says_full


def refuse_to_overwrite(target: Path, read: Iterable[Path], option: str) -> None:
    """Refuse to overwrite one of a command's input files with its output.

    Raises:
        UserError: the output is an input; the message names the option.
    """
    for file in read:
        if target.exists() and file.exists() and target.samefile(file):
            raise UserError(f"{option} {target} would overwrite an input of this command; name another file")


def write_text(path: Path, text: str) -> None:
    r"""Write a file atomically: to a temporary file, synced and then renamed.

    A lone surrogate, which a model may produce, is not valid UTF-8; it becomes JSON's escape, `\ud83d`.
    """
    if path.is_dir():
        raise UserError(sentence(IsADirectoryError(errno.EISDIR, "", str(path))))
    aside = path.with_name(path.name + ".tmp")
    with aside.open("w", encoding="utf-8", errors="backslashreplace") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(aside, path)
    sync_directory(path.parent)


def write_json(path: Path, data: Any) -> None:
    """`write_text` with indented JSON."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


class StreamedFile(io.FileIO):
    """A file written once from start to end, and synced to disk while being written.

    Otherwise a large checkpoint would evict other files from the page cache, and then wait for the disk.
    """

    _EVERY = 128 << 20

    def __init__(self, path: Path) -> None:
        super().__init__(path, "wb")
        self._waiting = 0

    def write(self, data: Buffer, /) -> int:
        """Write all of ``data``."""
        left = memoryview(data).cast("B")
        size = len(left)
        while left:
            left = left[super().write(left) :]
        self._waiting += size
        if self._waiting >= self._EVERY:
            self.settle()
        return size

    def settle(self) -> None:
        """Sync the data written so far, and drop it from the page cache."""
        os.fdatasync(self.fileno())
        os.posix_fadvise(self.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self._waiting = 0


@contextmanager
def whole_folder(folder: Path, nbytes: int) -> Iterator[Path]:
    """Yields a temporary folder that is renamed to `folder` if the block succeeds, and removed otherwise.

    Args:
        folder: must not exist.
        nbytes: bytes to be written; a disk that is too small is refused at the start.

    Raises:
        UserError: the folder exists, or the disk is too small or fills up.
    """
    if folder.exists():
        raise UserError(f"{folder} already exists: remove it, or name another folder.")
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # left by a killed run
        partial.mkdir(parents=True)
        free = shutil.disk_usage(partial).free
        if free < nbytes:
            raise UserError(
                f"no space left on the disk of {folder}: {readable_bytes(nbytes)} are needed, "
                f"{readable_bytes(free)} free."
            )
        yield partial
        sync_tree(partial)
        partial.rename(folder)
        sync_directory(folder.parent)
    except BaseException as error:
        full = full_disk(partial, nbytes) if says_full(error) and _SAID not in str(error) else ""
        shutil.rmtree(partial, ignore_errors=True)  # only after measuring the free space
        if full:
            raise UserError(f"{full.replace(str(partial), str(folder))}; nothing was kept.") from error
        if isinstance(error, OSError):
            raise UserError(f"{error.filename or folder} cannot be written: {error.strerror}.") from error
        raise


def sync_tree(folder: Path) -> None:
    """Sync every file and folder below `folder`."""
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root) / name
            if path.is_file():
                with path.open("rb") as handle:
                    os.fsync(handle.fileno())
        sync_directory(Path(root))

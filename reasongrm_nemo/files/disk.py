# SPDX-License-Identifier: Apache-2.0
"""Reports a full disk in one sentence: which disk, how much was needed, how much is free.

Called by `run.stage` for any stage, by `processes.work_order` on trainer ranks, by `writes.whole_folder` for
folders, and by `megatron.checkpoints`, which keeps the previous checkpoint.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from pathlib import Path

from reasongrm_nemo.errors import StageFailed, UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_WORDS = re.compile(
    r"no space left on|os error 28\b|disk quota exceeded|os error 122\b|PytorchStreamWriter failed writing"
    r"|inline_container\.cc.{0,40}(?:unexpected pos|file write failed)",
    re.IGNORECASE | re.DOTALL,
)
_SAID = "no space left on the disk of"
_ALMOST_NOTHING = 1 << 20


def readable_bytes(count: int) -> str:
    """1536 -> "1.5 KiB"."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def says_full(error: BaseException | str | None) -> bool:
    """Whether an exception, one of its causes, or an error text reports a full disk or quota.

    Libraries report this in many ways: torch as a RuntimeError without a cause, safetensors in Rust's words.
    """
    while error is not None and not isinstance(error, str):
        if (isinstance(error, OSError) and error.errno in _FULL) or _FULL_WORDS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return error is not None and bool(_FULL_WORDS.search(error))


def full_disk(folder: Path, needed: int | None = None) -> str:
    """The message for a full file system: where, how much was needed, how much is free.

    Args:
        folder: a folder on it; if /dev/shm or the temporary folder is full, that is named instead.
        needed: bytes to be written, if known.
    """
    places = [folder, Path("/dev/shm"), Path(tempfile.gettempdir())]
    frees = {place: _free(place) for place in places}
    place = next((p for p in places if frees[p] < _ALMOST_NOTHING), folder)
    wanted = f"{readable_bytes(needed)} needed, " if needed else ""
    return f"no space left on the disk of {place} ({wanted}{readable_bytes(frees[place])} free)"


def _free(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def disk_full(error: BaseException | None, work: Path, needed: int | None = None) -> StageFailed | None:
    """The error for a full disk; None if something else failed.

    A process started by the stage may have hit the full disk, so a disk with almost nothing free also counts.

    Args:
        error: the exception; its causes are checked too.
        work: the artefact being written.
        needed: as in `full_disk`.
    """
    if isinstance(error, UserError) and _SAID in str(error):
        return None
    cause, path = error, None
    while cause is not None and path is None:
        if isinstance(cause, OSError) and cause.errno in _FULL and isinstance(cause.filename, (str, bytes)):
            path = Path(os.fsdecode(cause.filename))
        cause = cause.__cause__ or cause.__context__
    if not says_full(error) and _free(work) >= _ALMOST_NOTHING:
        return None
    return StageFailed(
        f"{full_disk(path or work, needed)}; free some space and run the same command again: the results so "
        f"far are kept in {work}"
    )

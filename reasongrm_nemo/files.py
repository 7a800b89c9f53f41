# SPDX-License-Identifier: Apache-2.0
"""Writing that survives a kill, one owner of a runs folder at a time, full disks, and the user's cache."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR
from types import TracebackType
from typing import TYPE_CHECKING, Any

from reasongrm_nemo.data.jsonl import bounded_lines, open_packed, sync_directory
from reasongrm_nemo.documents import parse_json, shaped
from reasongrm_nemo.documents import read_json as read_json
from reasongrm_nemo.errors import StageFailed, UserError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_WORDS = re.compile(
    r"no space left on|os error 28\b|disk quota exceeded|os error 122\b|PytorchStreamWriter failed writing"
    r"|inline_container\.cc.{0,40}(?:unexpected pos|file write failed)",
    re.IGNORECASE | re.DOTALL,
)
_SAID = "no space left on the disk of"
_ALMOST_NOTHING = 1 << 20


def write_text(path: Path, text: str) -> None:
    r"""Write a whole file or nothing: beside it, synced, then renamed over it.

    Half a surrogate pair, which a model may write, is no UTF-8; it becomes `\ud83d`, JSON's own escape.
    """
    aside = path.with_name(path.name + ".tmp")
    with aside.open("w", encoding="utf-8", errors="backslashreplace") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(aside, path)
    sync_directory(path.parent)


def write_json(path: Path, data: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


_STEP = {"step": int}


def read_figures(path: Path, shape: Any = _STEP) -> Iterator[tuple[str, dict[str, Any]]]:
    """Text and figures of each line of metrics.jsonl or its like; a last one that is torn is left out.

    Raises:
        UserError: a line is too long, is no JSON, or has another shape (`documents.shaped`).
    """
    if not path.exists():
        return
    with open_packed(path) as file:
        for number, line in enumerate(bounded_lines(file, path), 1):
            if not line.endswith(b"\n"):
                return
            text, where = line.decode("utf-8", errors="replace"), f"{path}:{number}"
            yield text, shaped(parse_json(text, where), shape, where)


class StreamedFile(io.FileIO):
    """A file that is written once from start to end and goes to the disk meanwhile, not at the end.

    Without it a large checkpoint fills the page cache with what nobody will read, at the cost of clearing
    that memory first, and then waits for the disk.
    """

    _EVERY = 128 << 20

    def __init__(self, path: Path) -> None:
        super().__init__(path, "wb")
        self._waiting = 0

    def write(self, data: Buffer, /) -> int:
        """All of ``data``."""
        left = memoryview(data).cast("B")
        size = len(left)
        while left:
            left = left[super().write(left) :]
        self._waiting += size
        if self._waiting >= self._EVERY:
            self.settle()
        return size

    def settle(self) -> None:
        """Wait until the disk has what was written, and let its memory go."""
        os.fdatasync(self.fileno())
        os.posix_fadvise(self.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self._waiting = 0


@contextmanager
def whole_folder(folder: Path, nbytes: int) -> Iterator[Path]:
    """A folder to be filled, which appears under its name when the block ends well, and else not at all.

    Args:
        folder: must not exist.
        nbytes: what will be written, so that a disk too small is refused before the work.

    Raises:
        UserError: the folder exists, or its disk is too small or filled up meanwhile.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already: remove it, or name another folder.")
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
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
        shutil.rmtree(partial, ignore_errors=True)  # only now: it is what fills the disk
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


def readable_bytes(count: int) -> str:
    """1536 -> "1.5 KiB"."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def says_full(error: BaseException | str | None) -> bool:
    """Whether an exception, one it came of, or an error's text is of a full disk or quota.

    Libraries pass it on in many ways: torch as a RuntimeError without the cause, safetensors as Rust's words.
    """
    while error is not None and not isinstance(error, str):
        if (isinstance(error, OSError) and error.errno in _FULL) or _FULL_WORDS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return error is not None and bool(_FULL_WORDS.search(error))


def full_disk(folder: Path, needed: int | None = None) -> str:
    """What to say of a file system that is full: where, how much was needed, how much is free.

    Args:
        folder: on it; another folder that is full is said in its place.
        needed: bytes that were to be written, where that is known.
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
    """The sentence for a full disk, or None where that is not what happened.

    Args:
        error: what was raised; its causes are looked at too. A process the stage started may have met the
            full disk in its place, so a disk with almost nothing free counts as well.
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
        f"{full_disk(path or work, needed)}; free some and give the same command again: what was computed so "
        f"far is kept in {work}"
    )


class RunsLock:
    """Who works in a runs folder: one process on the whole of it, or several, each on an artefact of its own.

    The kernel frees the locks when their owner dies.

    Args:
        runs_dir: the runs folder.
        name: the artefact that is made; None: the whole folder is one's own.
        reads: artefacts that must not be made anew meanwhile.
        elsewhere: the same of other runs folders.

    Raises:
        UserError: on entering, where another process is in the way; the sentence names that process.
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
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._handles.append(handle)
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(handle, 200).decode(errors="replace").strip()
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise UserError(f"{path}: this file system does not lock files ({error.strerror})") from None
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


def remembered(kind: str, key: str) -> str | None:
    """What `remember` kept under a key, in this run or an earlier one; None where nothing is kept."""
    with suppress(OSError, RuntimeError, UnicodeDecodeError):
        return (_memory(kind) / key).read_text(encoding="utf-8") or None
    return None


def remember(kind: str, key: str, text: str) -> None:
    """Keep a text in the user's cache; only time is lost where that cannot be written.

    Args:
        kind: of things kept, a folder of the cache.
        key: a hash of all that the text depends on.
        text: not empty.
    """
    with suppress(OSError, RuntimeError):
        folder = _memory(kind)
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f"{key}.{os.getpid()}"
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, folder / key)


def _memory(kind: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "reasongrm" / kind


SCRATCH = "REASONGRM_NODE_SCRATCH"
"""A job's folder on each node's own disk, for what compilers write and later run; set by launch/common.sh."""


def own_scratch() -> None:
    """Make this node's scratch folder for this user alone, or see that it is; not set: nothing is done.

    Its name can be foretold, so another user may have made it first and left code in it.

    Raises:
        UserError: it is somebody else's, or others may write in it.
    """
    if not (name := os.environ.get(SCRATCH)):
        return
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        Path(name).mkdir(mode=0o700)
    found = Path(name).lstat()
    if not S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise UserError(
            f"{name} is not a folder in which only you can write: remove it, or name another place by "
            "REASONGRM_SCRATCH (launch/site.env)"
        )

# SPDX-License-Identifier: Apache-2.0
"""Content hashes of files and folders; an unchanged file is read only once.

A file counts as unchanged while its inode, size, modification time and change time are the same. It is then
not read again by this process or, if it is large, by later ones: the user's cache keeps its hash. This cannot
detect a disk that returns other bytes for an untouched file; `reasongrm show --verify` reads every file.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.cache import remember, remembered
from reasongrm_nemo.files.disk import readable_bytes
from reasongrm_nemo.files.refusals import sentence

_BLOCK = 1 << 20
_LARGE = 1 << 20  # reading a smaller file is as fast as looking it up in the cache
_ANNOUNCED = 4 << 30  # takes more than a few seconds
_THREADS = 8  # sha256 releases the GIL
_UNSETTLED_NS = (
    50_000_000  # file system clocks are coarse: two changes within this time can have the same timestamp
)
_KIND = "hashes"
_SHA256 = re.compile("[0-9a-f]{64}")

_Seen = tuple[int, int, int, int]


class HashCache:
    """Hashes of files read by this process, and of large files read by earlier ones.

    Args:
        recall: use hashes from earlier processes; False: read every byte.
        say: called with a message before a long read.
    """

    def __init__(self, recall: bool = True, say: Callable[[str], None] | None = None) -> None:
        self._recall, self._say = recall, say
        self._known: dict[_Seen, str] = {}

    def file(self, path: Path) -> dict[str, Any]:
        """`{size, mtime_ns, sha256}` of one file.

        Raises:
            UserError: the file cannot be read.
        """
        try:
            seen = _seen(path)
            digest = self._lookup(seen) or self._read(path, seen)
        except OSError as error:
            raise UserError(sentence(error, path)) from None
        return {"size": seen[1], "mtime_ns": seen[2], "sha256": digest}

    def files(self, paths: Iterable[Path]) -> list[dict[str, Any]]:
        """`file` of each path, several read in parallel."""
        paths = list(paths)
        self._announce(paths)
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            return list(pool.map(self.file, paths))

    def tree(self, path: Path) -> dict[str, dict[str, Any]]:
        """Relative name -> `file` for all files of a folder; a single file has the name "."."""
        if path.is_file():
            return {".": self.files([path])[0]}
        paths = [p for p in entries(path) if p.is_file()]
        names = (str(p.relative_to(path)) for p in paths)
        return dict(zip(names, self.files(paths), strict=True))

    def _announce(self, paths: Iterable[Path]) -> None:
        if self._say is None:
            return
        sizes = [seen[1] for seen in map(_seen, paths) if self._lookup(seen) is None]
        if sum(sizes) >= _ANNOUNCED:
            self._say(f"  reading {readable_bytes(sum(sizes))} to compare with what was recorded")

    def _lookup(self, seen: _Seen) -> str | None:
        known = self._known.get(seen)
        if known is None and self._recall and seen[1] >= _LARGE:
            kept = remembered(_KIND, _name(seen)) or ""
            known = kept if _SHA256.fullmatch(kept) else None
            if known:
                self._known[seen] = known
        return known

    def _read(self, path: Path, seen: _Seen) -> str:
        digest, block = hashlib.sha256(), bytearray(min(_BLOCK, max(seen[1], 1)))
        view = memoryview(block)
        with path.open("rb", buffering=0) as handle:
            while count := handle.readinto(block):
                digest.update(view[:count])
        hexdigest = digest.hexdigest()
        settled = time.time_ns() - max(seen[2], seen[3]) > _UNSETTLED_NS
        if settled and _seen(path) == seen:
            self._known[seen] = hexdigest
            if seen[1] >= _LARGE:
                remember(_KIND, _name(seen), hexdigest)
        return hexdigest


def entries(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Everything below a folder other than folders; links to folders are followed.

    Args:
        folder: if this is a file or does not exist, nothing is yielded.
        above: the real paths of the folders above, to stop at a link back to one of them.
    """
    here = os.path.realpath(folder)
    if here in above or not os.path.isdir(here):
        return
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if os.path.isdir(path):
            yield from entries(path, (*above, here))
        else:
            yield path


def _seen(path: Path) -> _Seen:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _name(seen: _Seen) -> str:
    return "-".join(map(str, seen))


def content_hash(files: Mapping[str, Mapping[str, Any]]) -> str:
    """One hash over a tree's names and contents, without modification times."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{files[name]['sha256']}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()

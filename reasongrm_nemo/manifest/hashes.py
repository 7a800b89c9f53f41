# SPDX-License-Identifier: Apache-2.0
"""Content hashes of files and folders."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files import read_json


class HashCache:
    """Content hashes by path, trusted while a file keeps its size and modification time."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int, str]] = {}

    @classmethod
    def of_runs(cls, *folders: Path) -> HashCache:
        """Filled from every manifest of runs folders, finished or partial."""
        cache = cls()
        names = "*/manifest.json", ".partial/*/stage.json"
        for path in chain.from_iterable(folder.glob(name) for folder in folders for name in names):
            try:
                data = read_json(path)
            except UserError:
                continue  # a torn partial: its stage will say so
            for item in data.get("inputs", {}).values():
                cache._add(Path(item["path"]), item["files"])
            cache._add(path.parent, data.get("outputs", {}))
        return cache

    def _add(self, root: Path, files: Mapping[str, Any]) -> None:
        for name, entry in files.items():
            if "sha256" in entry:
                path = root / name if name != "." else root
                self._known[str(path.absolute())] = (entry["size"], entry["mtime_ns"], entry["sha256"])

    def file(self, path: Path) -> dict[str, Any]:
        """`{size, mtime_ns, sha256}` of one file, read only where the cache has nothing."""
        stat = path.stat()
        size, mtime, name = stat.st_size, stat.st_mtime_ns, str(path.absolute())
        known = self._known.get(name)
        if known is None or known[:2] != (size, mtime):
            digest = hashlib.sha256()
            with path.open("rb") as handle:
                while block := handle.read(1 << 20):
                    digest.update(block)
            known = (size, mtime, digest.hexdigest())
            self._known[name] = known
        return {"size": size, "mtime_ns": mtime, "sha256": known[2]}

    def tree(self, path: Path) -> dict[str, dict[str, Any]]:
        """Relative name -> `file`, of a folder; a single file has the name "."."""
        if path.is_file():
            return {".": self.file(path)}
        return {str(p.relative_to(path)): self.file(p) for p in sorted(path.rglob("*")) if p.is_file()}


def content_hash(files: Mapping[str, Mapping[str, Any]]) -> str:
    """One hash of a tree's names and contents; modification times do not count."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{files[name]['sha256']}\n".encode())
    return digest.hexdigest()

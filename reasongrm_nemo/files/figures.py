# SPDX-License-Identifier: Apache-2.0
"""Reads figures that a run appends line by line (metrics.jsonl and the like), all or only the new ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reasongrm_nemo.files.documents import parse_json
from reasongrm_nemo.files.lines import bounded_lines, open_packed
from reasongrm_nemo.files.shapes import shaped

_STEP = {"step": int}


def read_figures(path: Path, shape: Any = _STEP) -> Iterator[tuple[str, dict[str, Any]]]:
    """Text and figures of each line of metrics.jsonl and the like; an incomplete last line is ignored.

    Raises:
        UserError: a line is too long, not JSON, or does not fit the schema (`shapes.shaped`).
    """
    if not path.exists():
        return
    with open_packed(path) as file:
        for number, line in enumerate(bounded_lines(file, path), 1):
            if not line.endswith(b"\n"):
                return
            yield _parsed(line, f"{path}:{number}", shape)


def _parsed(line: bytes, where: str, shape: Any) -> tuple[str, dict[str, Any]]:
    text = line.decode("utf-8", errors="replace")
    return text, shaped(parse_json(text, where), shape, where)


class NewFigures:
    """Yields the lines appended to a file of figures since the last call.

    Cheap enough to call several times a second: only the new bytes are read.

    Args:
        path: may not exist yet; lines that exist now count as seen.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._bytes = self._lines = 0
        self.read()

    def read(self) -> list[dict[str, Any]]:
        """The new lines; none if the file was rewritten, as a run does when it resumes.

        Raises:
            UserError: as for `read_figures`, in a new line.
        """
        if not self._path.exists():
            return []
        status = self._path.stat()
        rewritten = status.st_ino != self._file or status.st_size < self._bytes
        if rewritten:
            self._file, self._bytes, self._lines = status.st_ino, 0, 0
        if status.st_size == self._bytes:
            return []
        figures = []
        with self._path.open("rb") as file:
            file.seek(self._bytes)
            for line in bounded_lines(file, self._path, before=self._lines):
                if not line.endswith(b"\n"):
                    break
                self._bytes += len(line)
                self._lines += 1
                if not rewritten:
                    figures.append(_parsed(line, f"{self._path}:{self._lines}", _STEP)[1])
        return figures

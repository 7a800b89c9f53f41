# SPDX-License-Identifier: Apache-2.0
"""Result files of other projects' scripts: finds those with judgements in a folder, and reads their rows.

A file may hold a list, lines, an object of columns, or an object of groups. The module of the benchmark whose
scripts wrote the file interprets a row, with `foreign_row`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reasongrm_nemo.data.rows import BrokenRow, find_files, read_rows
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation.foreign_row import FIELDS, Row
from reasongrm_nemo.evaluation.items import known_subset
from reasongrm_nemo.files.lines import open_packed, parse_line, read_lines

SUMMARIES = frozenset(
    {
        "main_score",
        "each_small_section_score",
        "Final_score",
        "META_RESULT",
        "final_result",
        "final_score",
        "rm_rank",
    }
)
"""Names of files with summary figures, not judgements."""
_GROUPED = "group_by_same_id_logs"  # repeats the raw_logs.json next to it


def is_foreign(path: Path) -> bool:
    """Whether a file, by its first line, may be from one of the scripts, and is not a verdict log."""
    if path.is_dir():
        return True
    _, line = next(read_lines(path), (0, b""))
    try:
        first = parse_line(line)
    except (ValueError, RecursionError):
        return line.strip() == b"{" or line.strip().startswith(b"[")  # an indented file
    if isinstance(first, dict):
        return "item_id" not in first and ("benchmark" not in first or not FIELDS.isdisjoint(first))
    return isinstance(first, list)


def result_files(path: Path) -> list[Path]:
    """The file, or the files in a folder that hold judgements; UserError if none does."""
    files = find_files(path)
    if not path.is_dir():
        return files
    kept = [file for file in files if file.name.split(".")[0] not in SUMMARIES]
    whole = {file.parent for file in kept if file.name.startswith("raw_logs.")}
    kept = [file for file in kept if not (file.name.startswith(_GROUPED) and file.parent in whole)]
    if not kept:
        raise UserError(f"{path}: the folder has only files with summary figures, none with judgements")
    return kept


def result_rows(file: Path) -> Iterator[tuple[str, Row]]:
    """Place and row of each judgement or item in a file."""
    for where, row in _unpacked(file):
        if isinstance(row, BrokenRow):
            raise UserError(f"{where}: not a JSON line ({row.problem})")
        if not isinstance(row, dict) or FIELDS.isdisjoint(row):
            what = f"the fields {', '.join(map(str, row))[:120]}" if isinstance(row, dict) else "no fields"
            raise UserError(
                f"{where}: not a judgement, but has {what}; give the file with the results or scores of "
                "every item, not one with summary figures"
            )
        yield where, row


def _unpacked(file: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a list, of lines, of an object of columns, or of an object of groups."""
    whole = _one_object(file)
    if whole is None:
        yield from read_rows(file)
    elif columns := [
        name for name in sorted(FIELDS) if isinstance(whole.get(name), list) and "subset" in whole
    ]:
        count = len(whole[columns[0]])
        listed = {name: value for name, value in whole.items() if isinstance(value, list)}
        for name, value in listed.items():
            if len(value) != count:
                raise UserError(f"{file}: has {count} {columns[0]} but {len(value)} {name}")
        for index in range(count):
            yield f"{file}[{index}]", {name: value[index] for name, value in listed.items()}
    elif whole and all(isinstance(group, list) for group in whole.values()):
        for name, group in whole.items():
            for index, row in enumerate(group):
                yield f"{file}[{name}][{index}]", row
    else:
        yield str(file), whole


_MAX_OBJECT = 512 << 20  # the largest of these projects' files has some 100 MB


def _whole_text(file: Path) -> bytes:
    """All bytes of a file, or none if too large; the uncompressed size is measured first."""
    with open_packed(file) as opened:
        size = 0
        while block := opened.read(1 << 20):
            if not size and not block.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
                return b""
            size += len(block)
            if size > _MAX_OBJECT:
                return b""
    with open_packed(file) as opened:
        return opened.read(_MAX_OBJECT)


def _one_object(file: Path) -> Row | None:
    """The single object in a file, or None if the file holds a list or lines."""
    if file.name.endswith(".parquet"):
        return None
    text = _whole_text(file)
    if not text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None  # lines, or a file that their reader refuses
    single = not FIELDS.isdisjoint(data) and not any(isinstance(data[n], list) for n in FIELDS & data.keys())
    return None if single else data


class ItemNames:
    """Unique item names in a file; a repeated name is another item, as the scripts count it."""

    def __init__(self) -> None:
        self._seen = Counter[tuple[str, str]]()

    def once(self, subset: str, name: str) -> str:
        """The name, with a number if the subset had it before."""
        self._seen[subset, name] += 1
        count = self._seen[subset, name]
        return name if count == 1 else f"{name}-{count}"


def id_of(value: Any) -> str | None:
    """An id as text; None if there is none."""
    return str(value) if type(value) in (int, str) and value != "" else None


def texts_id(row: Row) -> str:
    """A name for an item without an id, from its contents."""
    texts = [row.get(name) for name in ("prompt", "text_chosen", "text_rejected", "chosen", "rejected")]
    return hashlib.sha256(json.dumps(texts).encode("ascii")).hexdigest()[:16]


def subset_of(
    name: Any, known: Mapping[str, object] | Sequence[str], project: str, where: str, field: str
) -> str:
    """The subset named by a field; UserError if there is none, or the benchmark lacks this subset."""
    if not isinstance(name, str):
        raise UserError(
            f"{where}: has no '{field}', which names the subset of {project}; give the file that has it"
        )
    return known_subset(name, known, project, where)

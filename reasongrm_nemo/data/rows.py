# SPDX-License-Identifier: Apache-2.0
"""Rows of preference files: JSON Lines, JSON, Parquet, the first two also packed by gzip or Zstandard.

JSON Lines and Parquet are read as they are used, a line or a batch at a time; a JSON array is read whole.

A file that holds nothing of the kind its name says is refused at once; a single broken line is handed on as
a `BrokenRow`, for the caller to count.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongrm_nemo.data.jsonl import DAMAGED, open_packed, read_lines
from reasongrm_nemo.errors import UserError

SUFFIXES = (
    *(f"{kind}{packed}" for kind in (".jsonl", ".ndjson", ".json") for packed in ("", ".gz", ".zst")),
    ".parquet",
)
BATCH_ROWS = 1024


@dataclass(frozen=True)
class BrokenRow:
    """A line that is not JSON, with the parser's reason."""

    problem: str


def find_files(path: str | Path) -> list[Path]:
    """The file itself, or the files with a known suffix in a folder and its folders, sorted by path.

    What begins with a dot is left out.

    Raises:
        UserError: nothing there, or nothing of a known kind.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and _known(file) and not _hidden(file.relative_to(path))
        )
        if not files:
            raise UserError(f"{path}: the folder has no file ending in {', '.join(SUFFIXES)}")
        return files
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if not _known(path):
        raise UserError(f"{path}: unknown kind of file; those read are {', '.join(SUFFIXES)}")
    return [path]


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Place ("file:line") and value of each row of one file, the value a `BrokenRow` where it cannot be read.

    Raises:
        UserError: the file is empty, damaged, or no row of it can be read.
    """
    if path.name.endswith(".parquet"):
        return _parquet(path)
    whole = _whole_array(path)
    return _lines(path) if whole is None else iter(whole)


def _known(path: Path) -> bool:
    return path.name.endswith(SUFFIXES)


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _whole_array(path: Path) -> list[tuple[str, Any]] | None:
    """The rows of a file that is one JSON array, else None.  The content decides: both kinds get misnamed."""
    for _, line in read_lines(path):
        if not line.lstrip().startswith(b"["):
            return None
        break
    else:
        raise UserError(f"{path}: the file is empty")
    try:
        with open_packed(path) as file:
            rows = json.loads(file.read().decode("utf-8-sig"))
    except DAMAGED as error:
        raise UserError(f"{path}: damaged data ({error}); get the file anew") from None
    except (ValueError, RecursionError) as error:
        if path.name.removesuffix(".gz").removesuffix(".zst").endswith(".json"):
            raise UserError(f"{path}: not valid JSON ({error})") from None
        return None
    if not rows:
        raise UserError(f"{path}: the file holds an empty list")
    return [(f"{path}[{index}]", row) for index, row in enumerate(rows)]


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    held: list[tuple[str, Any]] | None = []  # broken rows before the first good one
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        value: Any
        try:
            value = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            value = BrokenRow(str(error))
        if held is None:
            yield where, value
        elif isinstance(value, BrokenRow):
            held.append((where, value))
        else:
            yield from held
            held = None
            yield where, value
    if held:
        where, broken = held[0]
        raise UserError(f"{where}: no line of the file is JSON ({broken.problem})")


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = 0
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows == 0:
                raise UserError(f"{path}: the file has no rows")
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for row in _batch(batch):
                    yield f"{path}[{index}]", row
                    index += 1
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not readable as Parquet after row {index} ({reason})") from None


def _batch(batch: Any) -> Iterator[Any]:
    """The rows of a record batch; where one holds text that is no UTF-8, that row alone is broken."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield BrokenRow(str(error))

# SPDX-License-Identifier: Apache-2.0
"""Rows of preference files: JSON Lines, JSON, CSV, TSV (each also with gzip or Zstandard), and Parquet.

All are streamed: one line, batch or array item at a time. A file whose content does not fit its name is
refused at once; a single broken line becomes a `BrokenRow`, for the caller to count.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from reasongrm_nemo.data.tables import SUFFIXES as TABLES
from reasongrm_nemo.data.tables import read_table
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.lines import DAMAGED, MAX_LINE, damaged, open_packed, parse_line, read_lines

SUFFIXES = (
    *(
        f"{kind}{packed}"
        for kind in (".jsonl", ".ndjson", ".json", *TABLES)
        for packed in ("", ".gz", ".zst")
    ),
    ".parquet",
)
BATCH_ROWS = 1024
PIECE_CHARS = 1 << 20
MAX_COLUMN = 2 << 30
"""Most uncompressed bytes of one column of a Parquet row group, which is held in memory."""
MAX_BATCH = 1 << 30
"""Most bytes of a batch, assuming that every row repeats one value as large as its column."""
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class BrokenRow:
    """A row that cannot be read, with the parser's message."""

    problem: str


def find_files(path: str | Path) -> list[Path]:
    """The file itself, or all files with a known suffix below a folder, sorted by path.

    Names that begin with a dot are ignored.

    Raises:
        UserError: the path does not exist, or no file has a known suffix.
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
        raise UserError(f"{path}: unknown kind of file; use one of {', '.join(SUFFIXES)}")
    return [path]


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Place ("file:line") and value of each row of one file; an unreadable row's value is a `BrokenRow`.

    Raises:
        UserError: the file is empty or damaged, or none of its rows can be read.
    """
    if path.name.endswith(".parquet"):
        return _parquet(path)
    if path.name.removesuffix(".gz").removesuffix(".zst").endswith(TABLES):
        return ((where, BrokenRow(r) if isinstance(r, str) else r) for where, r in read_table(path))
    # decided by content, as both kinds are often misnamed
    return _array(path) if _is_array(path) else _lines(path)


def _known(path: Path) -> bool:
    return path.name.endswith(SUFFIXES)


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _is_array(path: Path) -> bool:
    """Whether a file is a single JSON array; read to the end unless the name says so."""
    first = _first_byte(path)
    if not first:
        raise UserError(f"{path}: the file is empty")
    if first != b"[":
        return False
    if path.name.removesuffix(".gz").removesuffix(".zst").endswith(".json"):
        return True
    try:
        for _ in _items(path):
            pass
    except (ValueError, RecursionError):
        return False
    return True


def _first_byte(path: Path) -> bytes:
    """The first byte that is not white space, without reading a possibly endless line."""
    try:
        with open_packed(path) as file:
            while block := file.read(4096):
                if rest := block.removeprefix(b"\xef\xbb\xbf").lstrip():
                    return rest[:1]
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except DAMAGED as error:
        raise damaged(error, path) from None
    return b""


def _array(path: Path) -> Iterator[tuple[str, Any]]:
    index = -1
    try:
        for index, row in enumerate(_items(path)):
            yield f"{path}[{index}]", row
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON after {index + 1} rows ({error})") from None
    if index < 0:
        raise UserError(f"{path}: the file holds an empty list")


def _items(path: Path) -> Iterator[Any]:
    """The items of a JSON array, with only one item and one piece of the file in memory.

    Raises:
        ValueError: not a JSON array, or not UTF-8.
        RecursionError: nested too deeply.
        UserError: the compressed data is damaged.
    """
    try:
        with open_packed(path) as packed, io.TextIOWrapper(packed, "utf-8-sig", newline="") as file:
            pieces = _Pieces(file)
            pieces.take("[")
            if not pieces.next_is("]"):
                yield pieces.value()
                while not pieces.next_is("]"):
                    pieces.take(",")
                    yield pieces.value()
            pieces.take("]")
            pieces.take("")
    except DAMAGED as error:
        raise damaged(error, path) from None


class _Pieces:
    """JSON text, read piece by piece."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text, self._at = file, "", 0
        self._decode = json.JSONDecoder().raw_decode

    def next_is(self, mark: str) -> bool:
        """Whether the next character other than white space is `mark` ("": the end of the text)."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1] == mark

    def take(self, mark: str) -> None:
        """Skip `mark`, which must be next."""
        if not self.next_is(mark):
            raise ValueError(f"expected '{mark}'" if mark else "data after the end of the list")
        self._at += len(mark)

    def value(self) -> Any:
        """The next value."""
        if self.next_is(""):
            raise ValueError("the file ends within the list")
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError:
                if not self._more():  # the value may only be incomplete
                    raise
                continue
            # a number cut off at the end of a piece would parse too, so look at the character after it
            if (end < len(self._text) and self._text[end] in " \t\r\n,]") or not self._more():
                self._at = end
                return value

    def _more(self) -> bool:
        """Read the next piece; pieces grow with the pending text, so that a long item takes linear time."""
        self._text = self._text[self._at :]
        self._at = 0
        if len(self._text) >= MAX_LINE:
            raise ValueError(f"an item is longer than {MAX_LINE >> 20} MiB, which no record is")
        piece = self._file.read(min(max(PIECE_CHARS, len(self._text)), MAX_LINE))
        self._text += piece
        return bool(piece)


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    held: list[tuple[str, Any]] | None = []  # broken rows before the first valid one
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        value: Any
        try:
            value = parse_line(line)
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
        raise UserError(f"{where}: no line of the file is JSON ({_encoding(path) or broken.problem})")


_MARKS = {
    b"\xff\xfe": "it is UTF-16; save it as UTF-8",
    b"\xfe\xff": "it is UTF-16; save it as UTF-8",
    b"\x1f\x8b": "it is compressed by gzip; give it a name that ends in .gz",
    b"\x28\xb5\x2f\xfd": "it is compressed by zstd; give it a name that ends in .zst",
    b"PK\x03\x04": "it is a zip archive; unpack it",
}


def _encoding(path: Path) -> str:
    """Why a file is not UTF-8 text, and what to do; empty if it is."""
    with open_packed(path) as file:
        start = file.read(1 << 16)
    for mark, words in _MARKS.items():
        if start.startswith(mark):
            return words
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.end < len(start):  # otherwise a character cut in two by the block's end
            return f"byte {error.start + 1} is not UTF-8; save it as UTF-8"
    return ""


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = 0
    try:
        with pq.ParquetFile(path) as file:
            if file.metadata.num_rows == 0:
                raise UserError(f"{path}: the file has no rows")
            # no form uses times, and Python cannot represent all of Parquet's
            columns = [field.name for field in file.schema_arrow if not pa.types.is_temporal(field.type)]
            for batch in file.iter_batches(batch_size=_batch_rows(file.metadata, path), columns=columns):
                for row in _batch(batch):
                    yield f"{path}[{index}]", row
                    index += 1
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not readable as Parquet after row {index} ({reason})") from None


def _batch_rows(metadata: Any, path: Path) -> int:
    """Rows per batch; fewer if a large value that is stored once may be repeated in each row.

    Raises:
        UserError: a column of a row group is too large to read.
    """
    largest = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        for column in map(group.column, range(group.num_columns)):
            size = column.total_uncompressed_size
            if size > MAX_COLUMN:
                raise UserError(
                    f"{path}: column {column.path_in_schema} of row group {index} has {size >> 20} MiB "
                    f"uncompressed; the limit is {MAX_COLUMN >> 20} MiB: write smaller row groups"
                )
            largest = max(largest, size)
    return max(1, min(BATCH_ROWS, MAX_BATCH // max(largest, 1)))


# Text that is not UTF-8; in a list or struct also times beyond Python's range or in an unknown zone.
_UNREADABLE = (UnicodeDecodeError, OverflowError, ValueError, KeyError)


def _batch(batch: Any) -> Iterator[Any]:
    """The rows of a record batch; a value that Python cannot represent breaks only its row."""
    try:
        rows = batch.to_pylist()
    except _UNREADABLE:
        rows = [_row(batch.slice(index, 1)) for index in range(batch.num_rows)]
    yield from rows


def _row(batch: Any) -> Any:
    try:
        return batch.to_pylist()[0]
    except _UNREADABLE as error:
        return BrokenRow(str(error))

# SPDX-License-Identifier: Apache-2.0
"""Records as JSON Lines: strict reading, atomic writing, appending that survives a kill."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Generic, TypeVar

from reasongrm_nemo.data.base_record import Record
from reasongrm_nemo.data.records import AnswerTask, HardTask, JudgeTask
from reasongrm_nemo.documents import refuse_special, sentence
from reasongrm_nemo.errors import UserError

R = TypeVar("R", bound=Record)

_BOM = b"\xef\xbb\xbf"
_DECODER = json.JSONDecoder()
_SURROGATE = re.compile("[\ud800-\udfff]")

MAX_LINE = 16 << 20
"""Bytes of a line, or of an item of an array. The longest row of a published data set has 2 MB."""
MAX_OWN_LINE = 256 << 20
"""The same of what this package wrote: a task's rollouts are one line."""
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, OSError)
"""What reading damaged data raises (Zstandard's reader: a plain OSError)."""


def open_packed(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked where its name ends in `.gz` or `.zst`.

    Raises:
        UserError: it is a pipe, a socket or a device, which would be waited for or never end.
        OSError: it cannot be opened.
    """
    refuse_special(path)
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        import pyarrow as pa

        path.open("rb").close()  # for the usual errors of a file that cannot be opened
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"), 1 << 20)  # type: ignore[no-any-return]
    return path.open("rb")


def damaged(error: Exception, path: Path, row: str = "") -> UserError:
    """The refusal of a file that stopped being readable at a row."""
    if isinstance(error, OSError) and error.errno:
        return UserError(sentence(error, path))
    after = " after this line" if row else ""
    return UserError(f"{path}{row}: damaged data{after} ({error}); get the file anew")


def bounded_lines(file: BinaryIO, path: Path, limit: int = MAX_LINE) -> Iterator[bytes]:
    """The lines of a file; UserError at one that is too long, which is not read to its end."""
    number = 0
    while line := file.readline(limit + 1):
        number += 1
        if len(line) > limit:
            raise UserError(
                f"{path}:{number}: the line is longer than {limit >> 20} MiB, which no record is; it may "
                "be an array or a binary file under this name: give one record a line"
            )
        yield line


def read_lines(path: str | Path, limit: int = MAX_LINE) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and raw bytes of every line that is not blank; `.gz` and `.zst` are unpacked.

    Lines end at a line feed only, so that separators such as U+2028 inside a text do no harm.

    Raises:
        UserError: the file is missing, the compressed data is damaged (naming the last good line), or a line
            is longer than `limit` bytes.
    """
    path = Path(path)
    number = 0
    try:
        with open_packed(path) as file:
            for number, line in enumerate(bounded_lines(file, path, limit), start=1):
                if number == 1 and line.startswith(_BOM):
                    line = line[3:]
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except DAMAGED as error:
        raise damaged(error, path, f":{number}") from None


def parse_json(line: bytes) -> Any:
    """The value of one line of UTF-8 JSON.

    Raises:
        ValueError: not JSON, or not UTF-8.
        RecursionError: nested too deeply.
    """
    # The codec utf-8-sig and json.loads cost as much again as the scanning, over a log of 200,000 lines.
    text = line.decode("utf-8-sig" if line.startswith(_BOM) else "utf-8").strip(" \t\r\n")
    value, end = _DECODER.raw_decode(text)
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def read_dicts(path: str | Path, limit: int = MAX_LINE) -> Iterator[tuple[str, Any]]:
    """Place ("file:line") and parsed JSON value of every line.

    Raises:
        UserError: a line is not JSON, or not UTF-8.
    """
    for number, line in read_lines(path, limit):
        where = f"{path}:{number}"
        try:
            yield where, parse_json(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not a JSON line ({error})") from None


def read_jsonl(path: str | Path, cls: type[R]) -> Iterator[R]:
    """The records of a file, checked one by one.

    Raises:
        UserError: naming file, line and field.
    """
    for where, data in read_dicts(path):
        yield cls.from_dict(data, where)


def task_from_dict(data: Any, where: str = "record") -> JudgeTask:
    """A `JudgeTask` or a `HardTask`, as what it is; as `Record.from_dict`."""
    hard = isinstance(data, dict) and "answers" in data
    return (HardTask if hard else JudgeTask).from_dict(data, where)


def any_task_from_dict(data: Any, where: str = "record") -> JudgeTask | AnswerTask:
    """As `task_from_dict`, and an `AnswerTask` too."""
    is_open = isinstance(data, dict) and "reference" in data
    return AnswerTask.from_dict(data, where) if is_open else task_from_dict(data, where)


def read_tasks(path: str | Path) -> Iterator[JudgeTask]:
    """Tasks from a file of `JudgeTask` or of `HardTask` records, each as what it is."""
    for where, data in read_dicts(path):
        yield task_from_dict(data, where)


class PlacedJsonl(Generic[R]):
    """A file of records to read through once and then to look up in, so that texts need not be kept.

    A place is the byte at which a line begins; the records of a compressed file, which cannot be looked up
    in, are kept, and a place counts them.

    Args:
        path: the file.
        make: a record's `from_dict`, `task_from_dict` or `any_task_from_dict`.
    """

    def __init__(self, path: str | Path, make: Callable[[Any, str], R]) -> None:
        self._path, self._make = Path(path), make
        self._packed = self._path.suffix in (".gz", ".zst")
        self._kept: list[R] = []
        self._file: BinaryIO | None = None

    def scan(self) -> Iterator[tuple[R, int]]:
        """Every record with its place, checked one by one.

        Raises:
            UserError: naming file, line and field.
        """
        if self._packed:
            for where, data in read_dicts(self._path):
                self._kept.append(self._make(data, where))
                yield self._kept[-1], len(self._kept) - 1
            return
        try:
            file = open_packed(self._path)
        except OSError as error:
            raise UserError(f"{self._path}: cannot be read ({error.strerror})") from None
        with file:
            start = 0
            for number, line in enumerate(bounded_lines(file, self._path), start=1):
                if line.strip():
                    yield self._parse(line, f"{self._path}:{number}"), start
                start += len(line)

    def get(self, place: int) -> R:
        """The record at a place."""
        if self._packed:
            return self._kept[place]
        if self._file is None:
            self._file = self._path.open("rb")
        self._file.seek(place)
        return self._parse(self._file.readline(), f"{self._path} at byte {place}")

    def close(self) -> None:
        """Close the file, if a record was looked up."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _parse(self, line: bytes, where: str) -> R:
        try:
            data = parse_json(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not a JSON line ({error})") from None
        return self._make(data, where)


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)  # json.dumps would make one a record


def encode(record: Record) -> bytes:
    """One line of UTF-8 JSON; text that UTF-8 cannot hold (lone surrogates) is escaped."""
    data = record.to_dict()
    text = _ENCODER.encode(data)
    try:
        return text.encode("utf-8") + b"\n"
    except UnicodeEncodeError:
        return json.dumps(data, allow_nan=False).encode("ascii") + b"\n"


def encodable(text: str) -> str:
    """The text with U+FFFD in place of what UTF-8 cannot hold (lone surrogates), to be shown."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def sync_directory(path: Path) -> None:
    """Make a creation or a rename inside `path` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_jsonl(path: str | Path, records: Iterable[Record]) -> int:
    """Write all records so that `path` appears whole or not at all; returns how many.

    Written beside the target, synced, then renamed over it; a failure leaves the old file as it was.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.tmp")  # what a kill leaves is written over when it is done again
    count = 0
    try:
        with aside.open("wb") as file:
            for record in records:
                file.write(encode(record))
                count += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    return count


class JsonlAppender:
    """Appends batches of records to a file, each batch synced before `append` returns.

    Opening a file that a killed process left drops its torn end (a last line without a line feed, or one
    that is no JSON); `dropped_bytes` says how much.  One writer at a time.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        existed = self.path.exists()
        self._file: BinaryIO = self.path.open("r+b" if existed else "x+b")
        self.dropped_bytes = self._drop_torn_end()
        if not existed:
            sync_directory(self.path.parent)

    def append(self, records: Iterable[Record]) -> int:
        """Append and sync the records; returns how many."""
        lines = [encode(record) for record in records]
        if lines:
            self._file.write(b"".join(lines))
            self._file.flush()
            os.fsync(self._file.fileno())
        return len(lines)

    def close(self) -> None:
        """Close the file; closing twice does no harm."""
        self._file.close()

    def __enter__(self) -> JsonlAppender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _drop_torn_end(self) -> int:
        size = self._file.seek(0, os.SEEK_END)
        keep = self._line_start(size)  # after the last line feed: what follows is torn
        while keep:
            start = self._line_start(keep - 1)
            self._file.seek(start)
            if keep - start <= MAX_OWN_LINE and _is_json(self._file.read(keep - start)):
                break
            keep = start
        if keep < size:
            self._file.truncate(keep)
            os.fsync(self._file.fileno())
        self._file.seek(keep)
        return size - keep

    def _line_start(self, end: int) -> int:
        """Where the line that ends at offset `end` begins."""
        while end:
            begin = max(0, end - 65536)
            self._file.seek(begin)
            found = self._file.read(end - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            end = begin
        return 0


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True

# SPDX-License-Identifier: Apache-2.0
"""Records as JSON Lines: strict reads, atomic writes, and appends that survive a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Generic, TypeVar

from reasongrm_nemo.data.base_record import Record
from reasongrm_nemo.data.records import AnswerTask, HardTask, JudgeTask
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import check_file
from reasongrm_nemo.files.lines import (
    MAX_OWN_LINE,
    bounded_lines,
    line_value,
    open_packed,
    read_dicts,
    read_lines,
    sync_directory,
)

R = TypeVar("R", bound=Record)


def read_jsonl(path: str | Path, cls: type[R]) -> Iterator[R]:
    """The records of a file, checked one by one.

    Raises:
        UserError: a record is wrong; the message names file, line and field.
    """
    for _, record in placed_records(path, cls):
        yield record


def placed_records(path: str | Path, cls: type[R]) -> Iterator[tuple[str, R]]:
    """Place ("file:line") and record of every line; as `read_jsonl`."""
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        record = cls.from_json(line, where)
        yield where, cls.from_dict(line_value(line, where), where) if record is None else record


def task_from_dict(data: Any, where: str = "record") -> JudgeTask:
    """A `JudgeTask` or a `HardTask`, whichever the data holds; arguments as for `Record.from_dict`."""
    hard = isinstance(data, dict) and "answers" in data
    return (HardTask if hard else JudgeTask).from_dict(data, where)


def any_task_from_dict(data: Any, where: str = "record") -> JudgeTask | AnswerTask:
    """A `JudgeTask`, a `HardTask` or an `AnswerTask`, whichever the data holds."""
    is_open = isinstance(data, dict) and "reference" in data
    return AnswerTask.from_dict(data, where) if is_open else task_from_dict(data, where)


def read_tasks(path: str | Path) -> Iterator[JudgeTask]:
    """Tasks from a file of `JudgeTask` or `HardTask` records."""
    for where, data in read_dicts(path):
        yield task_from_dict(data, where)


class PlacedJsonl(Generic[R]):
    """A file of records, scanned once and then accessed at random, so that texts need not stay in memory.

    A place is the byte offset of a line. The records of a compressed file, which has no random access, are
    kept in memory, and a place is an index.

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
            UserError: a record is wrong; the message names file, line and field.
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
        """Close the file, if it is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _parse(self, line: bytes, where: str) -> R:
        return self._make(line_value(line, where), where)


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)  # json.dumps would create one per record


def encode(record: Record) -> bytes:
    """One line of UTF-8 JSON; lone surrogates, which UTF-8 cannot encode, are escaped."""
    data = record.to_dict()
    text = _ENCODER.encode(data)
    try:
        return text.encode("utf-8") + b"\n"
    except UnicodeEncodeError:
        return json.dumps(data, allow_nan=False).encode("ascii") + b"\n"


def write_jsonl(path: str | Path, records: Iterable[Record]) -> int:
    """Write all records atomically; returns their number.

    They are written to a temporary file, synced, then renamed; a failure leaves the old file unchanged.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.tmp")  # a leftover of a killed run is overwritten
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
    """Appends batches of records to a file, each synced before `append` returns.

    Opening a file that a killed process left truncates its damaged end (a last line without a line feed, or
    one that is not JSON) by `dropped_bytes`. Only one writer at a time.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        existed = self.path.exists()
        if existed:
            check_file(self.path)
        self._file: BinaryIO = self.path.open("r+b" if existed else "x+b")
        self.dropped_bytes = self._drop_torn_end()
        if not existed:
            sync_directory(self.path.parent)

    def append(self, records: Iterable[Record]) -> int:
        """Append and sync the records; returns their number."""
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
        keep = self._line_start(size)  # after the last line feed; the rest is incomplete
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
        """The start of the line that ends at offset `end`."""
        while end:
            begin = max(0, end - 65536)
            self._file.seek(begin)
            last_feed = self._file.read(end - begin).rfind(b"\n")
            if last_feed >= 0:
                return begin + last_feed + 1
            end = begin
        return 0


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True

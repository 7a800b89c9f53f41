# SPDX-License-Identifier: Apache-2.0
"""Reads lines of bounded length from plain or compressed files, and the JSON in them."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, AnyStr, BinaryIO

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import refuse_special
from reasongrm_nemo.files.refusals import sentence

_BOM = b"\xef\xbb\xbf"
_DECODER = json.JSONDecoder()
_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_LINE = 16 << 20
"""Most bytes of a line, or of an item of an array. The longest row of a published data set has 2 MB."""
MAX_OWN_LINE = 256 << 20
"""The same for files written by this package, where all rollouts of a task are one line."""
NO_RECORD = "no record is; the file may be an array, or binary: give one record per line"
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, OSError)
"""Exceptions raised by damaged data (Zstandard's reader raises a plain OSError)."""


def open_packed(path: Path) -> BinaryIO:
    """Opens a file of bytes, decompressing `.gz` and `.zst`.

    Raises:
        UserError: the path is a pipe, a socket or a device, whose reading may not end.
        OSError: the file cannot be opened.
    """
    refuse_special(path)
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        import pyarrow as pa

        path.open("rb").close()  # raises the usual error if the file cannot be opened
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"), 1 << 20)  # type: ignore[no-any-return]
    return path.open("rb")


def damaged(error: Exception, path: Path, row: str = "") -> UserError:
    """The error for a file that could not be read past a row."""
    if isinstance(error, OSError) and error.errno:
        return UserError(sentence(error, path))
    after = " after this line" if row else ""
    return UserError(f"{path}{row}: damaged data{after} ({error}); download the file again")


def bounded_lines(
    file: IO[AnyStr], path: Path, limit: int = MAX_LINE, no_record: str = NO_RECORD, before: int = 0
) -> Iterator[AnyStr]:
    """The lines of a file; a longer line is a UserError, and is not read whole.

    Args:
        file: opened for bytes or text.
        path: the file's name, for the message.
        limit: length of the longest allowed line, in bytes or characters.
        no_record: ends the message on a longer line: "... which {no_record}".
        before: number of lines read before, for the line number in the message.
    """
    number = before
    while line := file.readline(limit + 1):
        number += 1
        if len(line) > limit:
            raise UserError(f"{path}:{number}: the line is longer than {limit >> 20} MiB, which {no_record}")
        yield line


def read_lines(path: str | Path, limit: int = MAX_LINE) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and raw bytes of every line that is not blank; `.gz` and `.zst` are decompressed.

    Only line feeds end lines, so that separators such as U+2028 in a text do no harm.

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


def parse_line(line: bytes) -> Any:
    """Parses one line of UTF-8 JSON.

    Raises:
        ValueError: not JSON, or not UTF-8.
        RecursionError: nested too deeply.
    """
    # The codec utf-8-sig and json.loads would double the time for a log of 200,000 lines.
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
        yield where, line_value(line, where)


def line_value(line: bytes, where: str) -> Any:
    """As `parse_line`, with a UserError that names the place."""
    try:
        return parse_line(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not a JSON line ({error})") from None


def encodable(text: str) -> str:
    """The text, for display, with lone surrogates, which UTF-8 cannot encode, replaced by U+FFFD."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def sync_directory(path: Path) -> None:
    """Make a creation or a rename inside `path` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

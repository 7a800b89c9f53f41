# SPDX-License-Identifier: Apache-2.0
"""Rows of CSV and TSV files, with a header; `.gz` and `.zst` too.

Every value is text, except for a list of turns, which a cell may hold as JSON or as a Python literal.
"""

from __future__ import annotations

import ast
import csv
import io
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from reasongrm_nemo.data.tool_calls import parsed
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.lines import DAMAGED, MAX_LINE, bounded_lines, damaged, open_packed

SUFFIXES = (".csv", ".tsv")
_SEPARATORS = ",;\t|"
_MAX_TURNS = 1 << 20  # parsing a Python literal takes hundreds of bytes per character
_UTF16 = ("\udcff\udcfe", "\udcfe\udcff")


def read_table(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Place ("file:line" of the row's start) and fields of each row; a string tells what is wrong with a row.

    Raises:
        UserError: there is no header or no row, the file is damaged, or not UTF-8.
    """
    csv.field_size_limit(MAX_LINE)
    try:
        # bytes that are not UTF-8 become lone surrogates, and so break only their row
        with (
            open_packed(path) as packed,
            io.TextIOWrapper(packed, "utf-8-sig", "surrogateescape", "") as file,
        ):
            yield from _rows(path, file)
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except DAMAGED as error:
        raise damaged(error, path) from None
    except csv.Error as error:
        raise UserError(f"{path}: not readable as a table ({error})") from None


def _rows(path: Path, file: io.TextIOWrapper) -> Iterator[tuple[str, dict[str, Any] | str]]:
    lines = bounded_lines(file, path, no_record="no row is; check what the file holds")
    blank, first = next(((n, line) for n, line in enumerate(lines) if line.strip()), (0, ""))
    if not first:
        raise UserError(f"{path}: the file is empty")
    if first.startswith(_UTF16):
        raise UserError(f"{path}: the file is UTF-16; save it as UTF-8")
    reader = csv.reader(chain([first], lines), delimiter=_separator(path, first))
    header = next(reader)
    names = [name for name in header if name]
    if len({*names}) < len(names) or not names:
        raise UserError(f"{path}: the header ({', '.join(header)[:200]}) must name each column once")
    any_row, line = False, blank + reader.line_num + 1
    for cells in reader:
        where, line = f"{path}:{line}", blank + reader.line_num + 1
        if cells:
            any_row = True
            yield where, _row(header, cells)
    if not any_row:
        raise UserError(f"{path}: the file has a header and no rows")


def _separator(path: Path, header: str) -> str:
    """A tab in a TSV; in a CSV the most frequent separator in the header, since some use semicolons."""
    if ".tsv" in path.suffixes:
        return "\t"
    return max(_SEPARATORS, key=header.count)


def _row(header: list[str], cells: list[str]) -> dict[str, Any] | str:
    if len(cells) != len(header):
        return f"{len(cells)} cells under a header of {len(header)}"
    try:
        "".join(cells).encode("utf-8")
    except UnicodeEncodeError:
        return "not UTF-8"
    return {name: _value(cell) for name, cell in zip(header, cells, strict=True) if name}


def _value(cell: str) -> Any:
    """A cell's text, or the turns in it."""
    start = cell.lstrip()[:1]
    if start not in ("[", "{") or len(cell) > _MAX_TURNS:
        return cell
    parsed_cell = parsed(cell)
    if isinstance(parsed_cell, str):
        try:
            parsed_cell = ast.literal_eval(cell.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return cell
    turns = parsed_cell if isinstance(parsed_cell, list) else [parsed_cell]
    return parsed_cell if turns and all(map(_is_turn, turns)) else cell


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and (
        {"role", "content"} <= value.keys() or {"from", "value"} <= value.keys()
    )

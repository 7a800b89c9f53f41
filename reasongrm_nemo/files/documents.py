# SPDX-License-Identifier: Apache-2.0
"""Reads whole files from outside, up to a size limit."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.refusals import _REFUSALS, sentence, shown
from reasongrm_nemo.files.shapes import shaped

LIMIT = 16 << 20
"""Most bytes of a document such as config.json; the longest index of a published model has 9 MB."""
YAML_LIMIT = 256 << 10
"""Most bytes of a recipe or a template; the longest one shipped has 6 KiB."""
NODES = 100_000
"""Most values of a YAML document with its aliases expanded; a recipe has some 150."""
_DIGITS = 64  # tokenizer_config.json writes 1e30 ("no limit") in full


def check_file(path: Path) -> int:
    """The size of a regular file.

    Raises:
        UserError: the file cannot be accessed, or is a folder, a pipe or a device, whose reading may not end.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(sentence(error, path)) from None
    except ValueError as error:  # a NUL in the name
        raise UserError(f"{shown(str(path))} is not a file name ({error})") from None
    if stat.S_ISDIR(status.st_mode):
        raise UserError(f"{shown(str(path))} {_REFUSALS[errno.EISDIR]}")
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{shown(str(path))} {_REFUSALS[errno.ENXIO]}")
    return status.st_size


def refuse_special(path: Path) -> None:
    """Refuse a pipe, a socket or a device; OSError as ``os.stat``."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{shown(str(path))} {_REFUSALS[errno.ENXIO]}")


def too_long(path: Path, limit: int) -> UserError:
    """The error for a file over its size limit."""
    size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
    return UserError(
        f"{shown(str(path))} is longer than the {size} allowed for such files: it is damaged, "
        "or another kind of file under this name; restore it"
    )


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """Reads a whole file.

    Raises:
        UserError: the file cannot be read, or is longer than ``limit``; at most that much is held in memory.
    """
    if check_file(path) > limit:
        raise too_long(path, limit)
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)  # the file may grow meanwhile, and /proc reports size 0
    except OSError as error:
        raise UserError(sentence(error, path)) from None
    if len(data) > limit:
        raise too_long(path, limit)
    return data


def read_text(path: Path, limit: int = LIMIT) -> str:
    """Reads a whole UTF-8 file; errors as for ``read_bytes``, and if the file is not UTF-8."""
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{shown(str(path))} is not UTF-8 text (byte {error.start + 1}): save it as UTF-8"
        ) from None


def read_json(path: Path, limit: int = LIMIT) -> Any:
    """Reads a whole JSON file; errors as for ``read_text`` and ``parse_json``."""
    return parse_json(read_text(path, limit), shown(str(path)))


def read_object(path: Path, limit: int = LIMIT) -> dict[str, Any]:
    """``read_json`` for a file that must hold an object."""
    return shaped(read_json(path, limit), dict, shown(str(path)))  # type: ignore[no-any-return]


def parse_json(text: str, where: str) -> Any:
    """Parses JSON; a UserError if the text is not JSON, nested too deeply, or has an overlong number."""
    try:
        return json.loads(text.removeprefix("\ufeff"), parse_int=_whole)
    except RecursionError:
        raise UserError(f"{where}: not valid JSON: nested too deeply; restore the file") from None
    except ValueError as error:
        empty = "the file is empty" if not text.strip() else str(error)
        raise UserError(f"{where}: not valid JSON ({empty}); restore the file, or remove it") from None


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number of {len(digits)} digits; at most {_DIGITS} are read")
    return int(digits)


def check_size(node: Any) -> None:
    """Refuse a composed YAML document that is too large once its aliases are expanded.

    Raises:
        ValueError: the document is too large; the caller adds the file's name.
    """
    if node is not None and (count := min(_written_out(node), 1 << 64)) > NODES:
        raise ValueError(f"its aliases expand to {count:.3g} values, at most {NODES:,} are allowed")


def _below(node: Any) -> list[Any]:
    value = node.value
    if not isinstance(value, list):
        return []
    return [child for item in value for child in (item if isinstance(item, tuple) else (item,))]


def _written_out(node: Any) -> int:
    """The number of values in a graph of YAML nodes; an alias inside itself counts as none."""
    counts: dict[int, int] = {}
    waiting = [(node, False)]
    while waiting:
        one, ready = waiting.pop()
        if id(one) in counts and not ready:
            continue
        below = _below(one)
        if ready:
            counts[id(one)] = 1 + sum(counts[id(child)] for child in below)
        else:
            counts[id(one)] = 0
            waiting.append((one, True))
            waiting += [(child, False) for child in below]
    return counts[id(node)]

# SPDX-License-Identifier: Apache-2.0
"""Files from outside, read whole, but only up to a size."""

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
"""Bytes of a document such as config.json; the longest index of a published model has 9 MB."""
YAML_LIMIT = 256 << 10
"""Bytes of a recipe or a template; the longest that ships has 6 KiB."""
NODES = 100_000
"""Values that a YAML document may come to, its aliases written out; a recipe has some 150."""
_DIGITS = 64  # tokenizer_config.json says 1e30 for "no limit", in full


def check_file(path: Path) -> int:
    """The size of a regular file.

    A pipe would be waited for, a device never ends.

    Raises:
        UserError: it cannot be reached, or is something else.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(sentence(error, path)) from None
    except ValueError as error:  # a NUL in the name
        raise UserError(f"{shown(str(path))} is no name of a file ({error})") from None
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
    """The refusal of a file past its limit."""
    size = f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
    return UserError(
        f"{shown(str(path))} is longer than the {size} that such a file may have: it is damaged, "
        "or something else under this name; restore it"
    )


def read_bytes(path: Path, limit: int = LIMIT) -> bytes:
    """A whole file.

    Raises:
        UserError: it cannot be read, or is longer than ``limit``; no more than that is ever in memory.
    """
    if check_file(path) > limit:
        raise too_long(path, limit)
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)  # it may grow while it is read, and /proc says 0
    except OSError as error:
        raise UserError(sentence(error, path)) from None
    if len(data) > limit:
        raise too_long(path, limit)
    return data


def read_text(path: Path, limit: int = LIMIT) -> str:
    """A whole file of UTF-8; errors as ``read_bytes``, and where it is none."""
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{shown(str(path))} is not UTF-8 text (byte {error.start + 1}): save it as UTF-8"
        ) from None


def read_json(path: Path, limit: int = LIMIT) -> Any:
    """A whole file of JSON; errors as ``read_text``, and where it is none or nested too deeply."""
    return parse_json(read_text(path, limit), shown(str(path)))


def read_object(path: Path, limit: int = LIMIT) -> dict[str, Any]:
    """``read_json`` of a file that must hold an object."""
    return shaped(read_json(path, limit), dict, shown(str(path)))  # type: ignore[no-any-return]


def parse_json(text: str, where: str) -> Any:
    """A JSON text; UserError where it is none, nested too deeply, or has a number without end."""
    try:
        return json.loads(text.removeprefix("\ufeff"), parse_int=_whole)
    except RecursionError:
        raise UserError(f"{where}: not valid JSON: it is nested too deeply; restore the file") from None
    except ValueError as error:
        empty = "the file is empty" if not text.strip() else str(error)
        raise UserError(f"{where}: not valid JSON ({empty}); restore the file, or remove it") from None


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number of {len(digits)} digits; at most {_DIGITS} are read")
    return int(digits)


def check_size(node: Any) -> None:
    """Refuse a composed YAML document that comes to too much once its aliases are written out.

    Raises:
        ValueError: it does; to be told with the file's name.
    """
    if node is not None and (count := min(_written_out(node), 1 << 64)) > NODES:
        raise ValueError(f"its aliases written out come to {count:.3g} values, at most {NODES:,} are read")


def _below(node: Any) -> list[Any]:
    value = node.value
    if not isinstance(value, list):
        return []
    return [child for item in value for child in (item if isinstance(item, tuple) else (item,))]


def _written_out(node: Any) -> int:
    """How many values a graph of YAML nodes comes to; an alias inside itself counts for none."""
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

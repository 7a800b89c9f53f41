# SPDX-License-Identifier: Apache-2.0
"""Files from outside: read whole, but only up to a size; of the shape that is due, or one sentence.

The three places that others go through: `sentence` for an OSError, `read_json` and its like for a file's size
and syntax, `shaped` for what a parsed file has to look like.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError

LIMIT = 16 << 20
"""Bytes of a document such as config.json; the longest index of a published model has 9 MB."""
YAML_LIMIT = 256 << 10
"""Bytes of a recipe or a template; the longest that ships has 6 KiB."""
NODES = 100_000
"""Values that a YAML document may come to, its aliases written out; a recipe has some 150."""
_DIGITS = 64  # tokenizer_config.json says 1e30 for "no limit", in full
_SHOWN = 160

NUMBER = (int, float)
TEXT_OR_NULL = (str, type(None))

# -- what the system refuses ------------------------------------------------------------------------------

_REFUSALS = {
    errno.ENOENT: "does not exist",
    errno.EACCES: "cannot be reached by this user (permission denied): change its permissions",
    errno.EPERM: "cannot be changed by this user (not permitted): change its owner or its attributes",
    errno.EROFS: "is on a read-only file system: give a place that can be written",
    errno.ENAMETOOLONG: "is too long a name: give a shorter one",
    errno.ELOOP: "is a link that leads back to itself: remove the link",
    errno.EISDIR: "is a folder, and a file is due: move the folder away",
    errno.ENOTDIR: "has a file in its path where a folder is due: move that file away",
    errno.EEXIST: "is there already, and is no folder: move it away",
    errno.ENOTEMPTY: "is a folder with something in it: move it away",
    errno.ENXIO: "is a pipe, a socket or a device, and a file is due",
    errno.ENOSPC: "has no space left on its disk: free some and give the same command again",
    errno.EDQUOT: "is past the disk quota: free some space and give the same command again",
    errno.EIO: "cannot be read or written, its disk fails (input/output error): restore it from a copy",
    errno.ESTALE: "was lost by the file server (stale handle): give the same command again",
    errno.EMFILE: "cannot be opened, this process has too many files open: raise `ulimit -n`",
    errno.ENFILE: "cannot be opened, this machine has too many files open",
}
_NO_ADDRESS = (errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.ENETDOWN)


def sentence(error: OSError, path: object = None) -> str:
    """What the system refused, where, and what to do.

    Args:
        error: as raised.
        path: what it is about, where the error does not say.
    """
    place = error.filename if error.filename is not None else path
    if isinstance(place, int):  # a descriptor says nothing to anybody
        place = path
    why = _REFUSALS.get(error.errno or 0)
    if error.errno in _NO_ADDRESS:
        return (
            f"this machine has no address 127.0.0.1 to work over ({error.strerror}): bring the loopback "
            "interface up, `ip link set lo up`"
        )
    if error.errno == errno.EADDRINUSE:
        return "the port is in use by another process: give another rollout.port, or end that process"
    if place is None:
        return f"the system refuses ({error.strerror or error})"
    name = shown(os.fsdecode(place) if isinstance(place, bytes) else str(place))
    if why is None:
        return f"{name}: the system refuses ({error.strerror or error})"
    if error.errno == errno.ENOENT and (link := _dangling(place)):
        why = f"is a link to {shown(link)}, which does not exist: restore that, or remove the link"
    return f"{name} {why}"


def shown(text: str) -> str:
    """A name as it can stand in a line: what no terminal shows is escaped, a long one loses its middle."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return plain if len(plain) <= _SHOWN else f"{plain[: _SHOWN // 2]}…{plain[-_SHOWN // 2 :]}"


def _dangling(place: Any) -> str | None:
    try:
        return os.fsdecode(os.readlink(place))
    except (OSError, TypeError, ValueError):
        return None


# -- files of a bounded size ------------------------------------------------------------------------------


def check_file(path: Path) -> int:
    """The size of a regular file.

    A pipe would be waited for, a device never ends.

    Raises:
        UserError: it cannot be reached, or is something else.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise UserError(sentence(error, path)) from None
    except ValueError as error:  # a NUL in the name
        raise UserError(f"{shown(str(path))} is no name of a file ({error})") from None
    if stat.S_ISDIR(found.st_mode):
        raise UserError(f"{shown(str(path))} {_REFUSALS[errno.EISDIR]}")
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{shown(str(path))} {_REFUSALS[errno.ENXIO]}")
    return found.st_size


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


# -- shapes -----------------------------------------------------------------------------------------------

_KINDS = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    dict: "an object",
    list: "a list",
    type(None): "null",
}


def shaped(data: Any, shape: Any, where: str, key: str = "") -> Any:
    """``data``, if it has the shape.

    msgspec does the same, but is in one of the two environments alone.

    Args:
        data: parsed JSON or YAML.
        shape: a type or several; ``[shape]`` for a list; ``{"name": shape, "name?": shape}`` for an object,
            where further names are let be; ``{...: shape}`` for an object of any names.
        where: the file, for the message.
        key: the dotted key of ``data`` in it.

    Raises:
        UserError: naming the file and the key.
    """
    if isinstance(shape, dict):
        _check_kind(data, (dict,), where, key)
        for name, below in shape.items():
            if name is ...:
                for each in data:
                    shaped(data[each], below, where, _dotted(key, each))
                continue
            plain = name.removesuffix("?")
            if plain in data:
                shaped(data[plain], below, where, _dotted(key, plain))
            elif plain == name:
                raise UserError(f"{where}: {_dotted(key, name)} is missing; restore the file, or remove it")
    elif isinstance(shape, list):
        _check_kind(data, (list,), where, key)
        for number, item in enumerate(data):
            shaped(item, shape[0], where, f"{key}[{number}]")
    elif shape is not object:
        _check_kind(data, shape if isinstance(shape, tuple) else (shape,), where, key)
    return data


def _dotted(key: str, name: object) -> str:
    return shown(f"{key}.{name}" if key else str(name))


def _check_kind(data: Any, kinds: tuple[type, ...], where: str, key: str) -> None:
    if isinstance(data, kinds) and (not isinstance(data, bool) or bool in kinds):
        return
    due = " or ".join(dict.fromkeys(_KINDS[kind] for kind in kinds))
    due = "a number" if kinds == NUMBER else due
    what = f"{key} must be" if key else "it must hold"
    raise UserError(f"{where}: {what} {due}, not {_kind_of(data)}; restore the file, or remove it")


def _kind_of(data: Any) -> str:
    if isinstance(data, (dict, list)) or data is None:
        return _KINDS[type(data)]
    return shown(repr(data))


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
    return [each for item in value for each in (item if isinstance(item, tuple) else (item,))]


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
            counts[id(one)] = 1 + sum(counts[id(each)] for each in below)
        else:
            counts[id(one)] = 0
            waiting.append((one, True))
            waiting += [(each, False) for each in below]
    return counts[id(node)]


def object_at(data: Any, *names: str) -> Mapping[str, Any]:
    """The object under the names, one below the other; an empty one where any is something else."""
    for name in names:
        data = data.get(name) if isinstance(data, dict) else None
    return data if isinstance(data, dict) else {}

# SPDX-License-Identifier: Apache-2.0
"""Damage to files, by name: each function replaces an existing file by something else."""

import json
import os
import shutil
from pathlib import Path

MIB = 1 << 20


def _replace(data: bytes):
    def damage(path: Path) -> None:
        clear(path)
        path.write_bytes(data)

    return damage


def clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def nuls(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flipped_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def flipped_byte_time_kept(path: Path) -> None:
    """Flip a byte in place and keep the modification time: only the change time reveals it."""
    before = path.stat()
    flipped_byte(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_file_time_kept(path: Path) -> None:
    """Replace by another file of the same size and modification time: the inode reveals it too."""
    before, aside = path.stat(), path.with_name(path.name + ".aside")
    shutil.copy2(path, aside)
    flipped_byte(aside)
    os.utime(aside, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(aside, path)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b" ")


def removed(path: Path) -> None:
    path.unlink()


def folder_in_its_place(path: Path) -> None:
    clear(path)
    path.mkdir()


def pipe_in_its_place(path: Path) -> None:
    clear(path)
    os.mkfifo(path)


def device_in_its_place(path: Path) -> None:
    clear(path)
    path.symlink_to("/dev/zero")


def dangling_link(path: Path) -> None:
    clear(path)
    path.symlink_to(path.with_name("nothing-is-there"))


def looping_link(path: Path) -> None:
    clear(path)
    path.symlink_to(path.name)


def gigabyte(path: Path) -> None:
    """A sparse gigabyte of NULs, which takes no disk space."""
    clear(path)
    with path.open("wb") as file:
        file.truncate(1 << 30)


CONTENTS = {
    "nuls": nuls,
    "flipped_byte": flipped_byte,
    "flipped_byte_time_kept": flipped_byte_time_kept,
    "other_file_time_kept": other_file_time_kept,
    "truncated": truncated,
    "longer": longer,
    "emptied": _replace(b""),
    "removed": removed,
}
"""The file is there, or not, and is not what was written."""

PATHS = {
    "folder": folder_in_its_place,
    "pipe": pipe_in_its_place,
    "device": device_in_its_place,
    "dangling_link": dangling_link,
    "looping_link": looping_link,
}
"""Something else stands under the name."""

SYNTAX = {
    "empty": _replace(b""),
    "nuls": _replace(bytes(64)),
    "words": _replace(b"it was a dark and stormy night"),
    "half": _replace(b'{"name": "x", "outp'),
    "utf16": _replace('{"a": 1}'.encode("utf-16")),
    "latin": _replace(b'{"a": "\xe9"}'),
    "binary": _replace(bytes(range(256))),
    "deep_lists": _replace(b"[" * 200_000),
    "deep_objects": _replace(b'{"a":' * 200_000),
    "long_number": _replace(b'{"a": ' + b"9" * 100_000 + b"}"),
    "gigabyte": gigabyte,
}
"""No JSON, or none that is read."""

SHAPES = {
    "null": _replace(b"null"),
    "number": _replace(b"7"),
    "text": _replace(b'"text"'),
    "true": _replace(b"true"),
    "list": _replace(b"[]"),
    "list_of_objects": _replace(b"[{}]"),
}
"""JSON, and no object."""


OTHERS = (None, 7, "text", [], {}, [{}], True, -1)


def every_value(path: Path, limit: int = 400, others=OTHERS):
    """Name and function of every way to give one value of a JSON file another type, key by key."""
    whole = json.loads(path.read_text())

    def places(value, at=()):
        if at:
            yield at
        items = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for key, below in items:
            yield from places(below, (*at, key))

    def changed(at, new):
        copy = json.loads(json.dumps(whole))
        below = copy
        for key in at[:-1]:
            below = below[key]
        below[at[-1]] = new
        return _replace(json.dumps(copy).encode())

    for at in list(places(whole))[:limit]:
        for new in others:
            yield f"{'.'.join(map(str, at))}={json.dumps(new)}", changed(at, new)

# SPDX-License-Identifier: Apache-2.0
"""Turns system errors into one sentence: what failed, where, what to do."""

from __future__ import annotations

import errno
import os
from typing import Any

_SHOWN = 160
_REFUSALS = {
    errno.ENOENT: "does not exist",
    errno.EACCES: "cannot be accessed (permission denied): change its permissions",
    errno.EPERM: "cannot be changed (operation not permitted): change its owner or its attributes",
    errno.EROFS: "is on a read-only file system: use a writable folder",
    errno.ENAMETOOLONG: "is too long a name: give a shorter one",
    errno.ELOOP: "is a link that points back to itself: remove the link",
    errno.EISDIR: "is a folder where a file is expected: move the folder away",
    errno.ENOTDIR: "has a file in its path where a folder is expected: move that file away",
    errno.EEXIST: "exists and is not a folder: move it away",
    errno.ENOTEMPTY: "is a folder that is not empty: move it away",
    errno.ENXIO: "is a pipe, a socket or a device where a file is expected",
    errno.ENOSPC: "has no space left on its disk: free some space and run the same command again",
    errno.EDQUOT: "exceeds the disk quota: free some space and run the same command again",
    errno.EFBIG: "has reached the largest file size allowed here: raise `ulimit -f`, or use another disk",
    errno.EIO: "cannot be read or written, its disk fails (input/output error): restore it from a copy",
    errno.ESTALE: "was lost by the file server (stale handle): run the same command again",
    errno.EMFILE: "cannot be opened because this process has too many open files: raise `ulimit -n`",
    errno.ENFILE: "cannot be opened because this machine has too many open files",
}
_OF_ANY = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE)
_NO_ADDRESS = (errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.ENETDOWN)


def sentence(error: OSError, path: object = None) -> str:
    """The message for a system error: what failed, where, and what to do.

    Args:
        error: as raised.
        path: the file concerned, used if the error names none.
    """
    place = error.filename if error.filename is not None else path
    if isinstance(place, int):  # a file descriptor tells the user nothing
        place = path
    why = _REFUSALS.get(error.errno or 0)
    if error.errno in _NO_ADDRESS:
        return (
            f"this machine has no address 127.0.0.1 ({error.strerror}): bring the loopback interface up "
            "with `ip link set lo up`"
        )
    if error.errno == errno.EADDRINUSE:
        return "the port is in use by another process: set another rollout.port, or end that process"
    if place is None and error.errno in _OF_ANY:
        return f"a file, or the output, {why}"
    if place is None and error.errno == errno.ENOENT and _nowhere():
        return "the current folder no longer exists: change to another"
    if place is None:
        return f"the system reports an error ({error.strerror or error})"
    name = shown(os.fsdecode(place) if isinstance(place, bytes) else str(place))
    if why is None:
        return f"{name}: the system reports an error ({error.strerror or error})"
    if error.errno == errno.ENOENT and (link := _dangling(place)):
        why = f"is a link to {shown(link)}, which does not exist: restore that, or remove the link"
    return f"{name} {why}"


def shown(text: str) -> str:
    """A name for display on one line: control characters are escaped, and a long name loses its middle."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return plain if len(plain) <= _SHOWN else f"{plain[: _SHOWN // 2]}…{plain[-_SHOWN // 2 :]}"


def _nowhere() -> bool:
    """Whether the current folder was removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


def _dangling(place: Any) -> str | None:
    try:
        return os.fsdecode(os.readlink(place))
    except (OSError, TypeError, ValueError):
        return None

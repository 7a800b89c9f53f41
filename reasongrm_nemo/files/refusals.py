# SPDX-License-Identifier: Apache-2.0
"""What the system refuses, as one sentence: what, where, what to do."""

from __future__ import annotations

import errno
import os
from typing import Any

_SHOWN = 160
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
    errno.EFBIG: "is as long as a file may become here: raise `ulimit -f`, or give another disk",
    errno.EIO: "cannot be read or written, its disk fails (input/output error): restore it from a copy",
    errno.ESTALE: "was lost by the file server (stale handle): give the same command again",
    errno.EMFILE: "cannot be opened, this process has too many files open: raise `ulimit -n`",
    errno.ENFILE: "cannot be opened, this machine has too many files open",
}
_OF_ANY = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE)
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
    if place is None and error.errno in _OF_ANY:
        return f"a file, or what takes the output, {why}"
    if place is None and error.errno == errno.ENOENT and _nowhere():
        return "the folder that this command was given in does not exist any more: change to another"
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

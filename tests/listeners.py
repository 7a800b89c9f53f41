# SPDX-License-Identifier: Apache-2.0
"""The listening sockets of a process and all its descendants, read from /proc."""

import os
import socket
import struct
import threading
from pathlib import Path

_LISTENS = "0A"


def descendants_of(*pids):
    """The processes and all their descendants that still run."""
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    todo, family = [*pids], [*pids]
    while todo:
        below = children.get(todo.pop(), [])
        todo += below
        family += below
    return family


def python_in_jobs():
    """The Python processes of every Slurm job on this machine, without Slurm's daemons, which listen too."""
    steps, pids = [], []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "comm").read_text().startswith("slurmstepd"):
                steps.append(int(entry.name))
        except OSError:
            continue
    for pid in descendants_of(*steps):
        try:
            if "python" in os.readlink(f"/proc/{pid}/exe"):
                pids.append(pid)
        except OSError:
            continue
    return pids


def _address(text):
    """The kernel's hexadecimal "0100007F:1F90" as address and port."""
    host, port = text.split(":")
    raw = b"".join(struct.pack("=I", int(host[i : i + 8], 16)) for i in range(0, len(host), 8))
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    return f"{socket.inet_ntop(family, raw)}:{int(port, 16)}"


def _sockets(pid):
    """Inode -> address, for sockets of the process's network namespace that listen or take datagrams."""
    by_inode = {}
    for name in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            unconnected = int(fields[2].split(":")[1], 16) == 0
            if fields[3] == _LISTENS or (name.startswith("udp") and unconnected):
                by_inode[fields[9]] = f"{name} {_address(fields[1])}"
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if int(fields[3], 16) & 0x10000:  # __SO_ACCEPTCON
            by_inode[fields[6]] = f"unix {fields[7] if len(fields) > 7 else '(no name)'}"
    return by_inode


def listening(pids):
    """(command line, where) of each socket that one of the processes listens on."""
    sockets = set()
    for pid in pids:
        try:
            known = _sockets(pid)
            words = " ".join(Path(f"/proc/{pid}/cmdline").read_text().split("\0"))
            for entry in os.scandir(f"/proc/{pid}/fd"):
                link = os.readlink(entry.path)
                where = known.get(link.removeprefix("socket:[").removesuffix("]"))
                if where:
                    sockets.add((words[:120] + f" [{pid}]", where))
        except OSError:
            continue  # the process has ended, or closed the socket
    return sockets


def open_to_strangers(sockets, addresses, guarded=()):
    """Descriptions of sockets that another user can reach and that nothing guards.

    Args:
        sockets: from `listening`.
        addresses: the permitted addresses to listen on.
        guarded: words in the command line of processes whose sockets ask for a token.
    """
    wrong = []
    for words, where in sorted(sockets):
        kind, _, rest = where.partition(" ")
        if kind == "unix":
            # an abstract name (@...) has no owner and no mode
            bad = rest.startswith("@") or (Path(rest).exists() and _writable_by_others(Path(rest)))
        else:
            bad = rest.rpartition(":")[0] not in addresses and not any(word in words for word in guarded)
        if bad:
            wrong.append(f"{where} of {words}")
    return wrong


def _writable_by_others(path):
    way = [path, *path.parents]
    # connecting takes write permission on the socket and search permission on every folder above
    return bool(path.stat().st_mode & 0o022) and all(folder.stat().st_mode & 0o001 for folder in way[1:])


class Watch:
    """Collects the listening sockets of `pids()` while the context is open."""

    def __init__(self, pids, every_s=0.1):
        self.sockets, self._pids, self._every_s = set(), pids, every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self):
        while not self._over.wait(self._every_s):
            self.sockets |= listening(self._pids())

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

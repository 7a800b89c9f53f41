# SPDX-License-Identifier: Apache-2.0
"""What the processes of a run hold: memory, descriptors, threads, and leftover files."""

import json
import os
import signal
import time
from pathlib import Path


def stat(pid):
    """Fields of /proc/PID/stat from the third on (state, ppid, pgrp, ...); None if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (OSError, ValueError):
        return None


def family(root):
    """pid -> fields of `root` and all its descendants."""
    known = {int(name): fields for name in os.listdir("/proc") if name.isdigit() and (fields := stat(name))}
    mine, more = {}, {root}
    while more:
        mine |= {pid: known[pid] for pid in more if pid in known}
        more = {pid for pid, fields in known.items() if int(fields[1]) in mine and pid not in mine}
    return mine


def held(pid):
    """PSS and USS in MiB, descriptors and threads; None if the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return {
            "pss": kib["Pss"] / 1024,
            "uss": (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024,
            "fds": len(os.listdir(f"/proc/{pid}/fd")),
            "threads": len(os.listdir(f"/proc/{pid}/task")),
        }
    except (OSError, KeyError, ValueError):
        return None


def tree(folder, skip=()):
    """Number of files below a folder, and their bytes."""
    files = size = 0
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in skip]
        for name in names:
            try:
                size += os.lstat(os.path.join(root, name)).st_size
                files += 1
            except OSError:
                continue  # removed meanwhile
    return files, size / 2**20


class Watched:
    """A GRPO run of one rank and one server.

    Args:
        pid: process id of `reasongrm run`.
        runs: the runs folder.
        name: the artefact's name.
        work: the folder of temporary files and caches.
    """

    def __init__(self, pid, runs, name, work):
        self.pid, self.work, self.partial = pid, work, runs / ".partial" / name
        self._spec = runs / ".logs" / name / "rollout-server.spec.json"

    def server(self):
        """Process id of the leader of the server's group; 0 if no server runs."""
        try:
            return json.loads(self._spec.read_text())["pid"]
        except (OSError, ValueError):
            return 0

    def kill_server(self):
        """Send SIGKILL to the server's whole group; returns the group's id."""
        if pid := self.server():
            os.killpg(pid, signal.SIGKILL)
        return pid

    def sample(self, step):
        """One sample; None while a process is missing (a server is being started)."""
        mine, server = family(self.pid), self.server()
        roles = {}
        for pid, fields in mine.items():
            if (role := self._role(pid, fields, server)) and (figures := held(pid)):
                roles[role] = figures | {"life": f"{pid}-{fields[19]}"}
        if not {"command", "rank", "server", "engine"} <= roles.keys():
            return None
        temporary, shared = tree(self.work / "tmp"), tree(f"/proc/{self.pid}/root/dev/shm")
        run = tree(self.partial, skip=("checkpoints",))
        files = {
            "processes": len(mine),
            "zombies": sum(fields[0] == "Z" for fields in mine.values()),
            "temporary files": temporary[0],
            "temporary MiB": temporary[1],
            "/dev/shm files": shared[0],
            "/dev/shm MiB": shared[1],
            "cache files": tree(self.work / "cache")[0],
            "checkpoint files": tree(self.partial / "checkpoints")[0],
            "run folder files": run[0],
            "run folder MiB": run[1],
        }
        return {"step": step, "time": time.time(), "roles": roles, "files": files}

    def _role(self, pid, fields, server):
        if pid == self.pid:
            return "command"
        if pid == server:
            return "server"
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return None
        if int(fields[2]) == server:
            return "engine" if b"resource_tracker" not in words else None
        if b"grpo.main" in words:
            return "rank"
        return None

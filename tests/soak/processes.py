# SPDX-License-Identifier: Apache-2.0
"""What the processes of a run hold: memory, descriptors, threads, and files they left."""

import json
import os
import signal
import time
from pathlib import Path


def stat(pid):
    """Fields of /proc/PID/stat from the third on (state, ppid, pgrp, ...); None where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (OSError, ValueError):
        return None


def family(root):
    """pid -> fields of `root` and all below it."""
    known = {int(name): fields for name in os.listdir("/proc") if name.isdigit() and (fields := stat(name))}
    mine, more = {}, {root}
    while more:
        mine |= {pid: known[pid] for pid in more if pid in known}
        more = {pid for pid, fields in known.items() if int(fields[1]) in mine and pid not in mine}
    return mine


def held(pid):
    """PSS and USS in MiB, descriptors and threads; None where it has ended."""
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
    """Files and their bytes below a folder."""
    files = size = 0
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in skip]
        for name in names:
            try:
                size += os.lstat(os.path.join(root, name)).st_size
                files += 1
            except OSError:
                continue  # it went meanwhile
    return files, size / 2**20


class Watched:
    """A GRPO run of one rank and one server.

    Args:
        pid: of `reasongrm run`.
        runs: its runs folder.
        name: its artefact.
        work: the folder of its temporary files and caches.
    """

    def __init__(self, pid, runs, name, work):
        self.pid, self.work, self.partial = pid, work, runs / ".partial" / name
        self._spec = runs / ".logs" / name / "rollout-server.spec.json"

    def server(self):
        """The process that leads the server's group; 0: none runs."""
        try:
            return json.loads(self._spec.read_text())["pid"]
        except (OSError, ValueError):
            return 0

    def kill_server(self):
        """SIGKILL to its whole group; its id."""
        if pid := self.server():
            os.killpg(pid, signal.SIGKILL)
        return pid

    def sample(self, step):
        """A line of samples; None while the run is not whole (a server is being started)."""
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

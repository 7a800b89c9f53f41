# SPDX-License-Identifier: Apache-2.0
"""Child processes that die with their parent, can be identified by other processes, and end as a group.

As a program (`python -m reasongrm_nemo.processes.child PARENT COMMAND...`), this module ties the process to
its parent and then executes COMMAND.  Standard library only, because it runs in both environments.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_children: dict[int, subprocess.Popen[bytes]] = {}


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Ask the kernel to kill this process when `parent` ends in any way, including SIGKILL.

    The kernel waits for the end of the parent *thread*, see `_on_lasting_thread`.

    Args:
        parent: process id of the parent.
        number: the signal to send.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")
    if os.getppid() != parent:  # the parent ended before the call
        os.kill(os.getpid(), signal.SIGKILL)


def spawn(command: Sequence[str], env: Mapping[str, str], log: Path) -> int:
    """Start `command` in a new process group that dies with this process; append its output to `log`.

    The first element of `command` must be a Python interpreter whose environment has this package.

    Returns:
        The process id, which is also the id of the group.
    """
    words = [command[0], "-m", __name__, str(os.getpid()), *command]

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            return subprocess.Popen(
                words,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    child = _on_lasting_thread(start)
    _children[child.pid] = child
    return child.pid


def _on_lasting_thread(work: Callable[[], Any]) -> Any:
    """Run `work` on a thread that lives as long as this process.

    The kernel sends the parent-death signal when the *thread* that started the child ends, so children must
    not be started from short-lived worker threads.
    """
    global _jobs
    jobs = _jobs
    if jobs is None or jobs[0] != os.getpid():  # threads do not survive a fork
        jobs = _jobs = (os.getpid(), queue.SimpleQueue())
        threading.Thread(target=_serve, args=(jobs[1],), name="spawner", daemon=True).start()
    answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    jobs[1].put((work, answer))
    value, error = answer.get()
    if error is not None:
        raise error
    return value


def _serve(jobs: queue.SimpleQueue[Any]) -> None:
    while True:
        work, answer = jobs.get()
        try:
            answer.put((work(), None))
        except BaseException as error:
            answer.put((None, error))


_jobs: tuple[int, queue.SimpleQueue[Any]] | None = None


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third on (state, ppid, pgrp, session, ...); None if gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (OSError, ValueError):
        return None


def start_ticks(pid: int) -> int:
    """Start time of a process in kernel ticks, which with its id identifies the process; 0 if gone."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def alive(pid: int, ticks: int) -> bool:
    """Whether the process with this id and start time still runs (zombies do not count)."""
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        return False
    fields = _stat(pid)
    return fields is not None and int(fields[19]) == ticks and fields[0] not in "ZX"


def exit_cause(pid: int) -> str:
    """How a child of this process ended, as a phrase; empty for other processes."""
    child = _children.get(pid)
    if child is None:
        return ""
    try:
        code = child.wait(2.0)  # a dead leader waits for its last thread
    except subprocess.TimeoutExpired:
        return ""
    return describe_exit(code)


def describe_exit(code: int) -> str:
    """Describe an exit status, such as "was killed by SIGKILL, probably out of memory".

    Args:
        code: exit status as in `subprocess` (-9 for SIGKILL), or as in shells and Slurm (137 for SIGKILL).
    """
    number = -code if code < 0 else code - 128 if 128 < code <= 128 + signal.NSIG else 0
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"ended with status {code}"
    return f"was killed by {name}{_PROBABLY.get(name, '')}"


_PROBABLY = {
    # sent when a machine's or job's memory limit is exceeded, or by a person
    "SIGKILL": ", probably out of memory",
    "SIGBUS": ", probably as /dev/shm or a file's disk is full",
}


def _group(pid: int, ticks: int) -> list[int]:
    """Running members of the process group led by `pid`, including the leader."""
    out = []
    for entry in os.listdir("/proc"):
        fields = _stat(int(entry)) if entry.isdigit() else None
        # Members are younger than their leader.  A later group cannot have the same id, because the kernel
        # does not reuse an id while a group of that id has members.
        if fields and int(fields[2]) == pid and fields[0] not in "ZX" and int(fields[19]) >= ticks:
            out.append(int(entry))
    return out


def end_group(pid: int, ticks: int, grace_s: float) -> None:
    """Send SIGTERM to the leader, and SIGKILL to the whole group after `grace_s` or when the leader is gone.

    Returns when no member runs any more.
    """
    if alive(pid, ticks) and grace_s > 0:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        _wait(lambda: not alive(pid, ticks), grace_s)
    # SIGKILL also ends stopped processes.
    for member in _group(pid, ticks):
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    _wait(lambda: not _group(pid, ticks), 10.0)
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        _children.pop(pid, None)  # another thread may have ended the same group


def _wait(done: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def main() -> None:
    """Tie this process to its parent, then execute the command."""
    die_with_parent(int(sys.argv[1]))
    # Slurm sends it to every process of a job; only the run's main process reacts (see `stop_requests`)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()

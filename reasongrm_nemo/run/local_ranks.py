# SPDX-License-Identifier: Apache-2.0
"""The trainer ranks of one machine, started and ended by this process.

torchrun is not used because its store listens on every interface and unpickles what it receives.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from reasongrm_nemo.processes import placement
from reasongrm_nemo.processes.child import die_with_parent, end_group, start_ticks
from reasongrm_nemo.processes.meeting import MEETING, PrivateFile
from reasongrm_nemo.rollout.server.settings import HOST

_LOOPBACK = "lo"
_LAST_WORDS_S = 5.0  # for the other ranks to report their errors after one has failed
_GRACE_S = 20.0  # between SIGTERM and SIGKILL


class LocalRanks:
    """Ranks as child processes, each in a separate process group that dies with this process.

    When one rank fails, the others are ended: they would wait for it until their collective times out.

    Args:
        command: the command of every rank; RANK, WORLD_SIZE and the like are in its environment.
        count: number of ranks.
        env: the rest of the environment.
        log: file to which all ranks' output is appended.

    Attributes:
        codes: exit status of each rank as ``subprocess`` gives it (negative: the signal); None: running.
        first_failure: (rank, status) of the first rank that failed by itself; None if none did.
    """

    def __init__(self, command: Sequence[str], count: int, env: Mapping[str, str], log: Path) -> None:
        self.codes: list[int | None] = [None] * count
        self.first_failure: tuple[int, int] | None = None
        self._deadline = 0.0
        self._meeting = PrivateFile()
        common = dict(env) | rank_environment(self._meeting.path, count)
        with log.open("ab") as out:
            self._ranks = [
                _start(command, common | _rank_variables(rank), out.fileno()) for rank in range(count)
            ]
        self._ticks = [start_ticks(rank.pid) for rank in self._ranks]

    @property
    def pids(self) -> list[int]:
        """The ranks' process ids."""
        return [rank.pid for rank in self._ranks]

    @property
    def returncode(self) -> int | None:
        """The exit status of the first rank that failed; 0 if all succeeded; None while some run."""
        if None in self.codes:
            return None
        return self.first_failure[1] if self.first_failure else next(filter(None, self.codes), 0)

    def poll(self) -> int | None:
        """Check the ranks, end them all after a failure, and return `returncode`."""
        ended = [rank for rank, code in enumerate(self.codes) if code is None and self._ended(rank)]
        failed = [(rank, code) for rank in ended if (code := self.codes[rank])]
        if failed and self.first_failure is None:
            # if several fail at once, blame the killed one: the others fail because they lost their peer
            self.first_failure = min(failed, key=lambda failure: (failure[1] > 0, failure[0]))
            self._deadline = time.monotonic() + _LAST_WORDS_S
        if self.returncode is not None:
            self._meeting.close()
        elif self.first_failure is not None and time.monotonic() > self._deadline:
            self.end()
        return self.returncode

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait until all ranks have ended.

        Raises:
            TimeoutError: some still run after `timeout_s`.
        """
        over = None if timeout_s is None else time.monotonic() + timeout_s
        while (code := self.poll()) is None:
            if over is not None and time.monotonic() > over:
                raise TimeoutError(f"the ranks are still running after {timeout_s:g} s")
            time.sleep(0.05)
        return code

    def end(self) -> None:
        """End all ranks: SIGTERM, then SIGKILL to those that ignore it."""
        for process in self._ranks:
            process.terminate()  # does nothing if the rank has ended
        over = time.monotonic() + _GRACE_S
        while any(process.poll() is None for process in self._ranks) and time.monotonic() < over:
            time.sleep(0.02)
        for process, ticks in zip(self._ranks, self._ticks, strict=True):
            end_group(process.pid, ticks, 0)  # including processes that the rank started
        self.codes = [process.wait() for process in self._ranks]
        self._meeting.close()

    def _ended(self, rank: int) -> bool:
        self.codes[rank] = self._ranks[rank].poll()
        return self.codes[rank] is not None


def rank_environment(meeting: Path, count: int) -> dict[str, str]:
    """Environment shared by the ranks of one machine: they rendezvous in a file and use only loopback."""
    return {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
        "MASTER_ADDR": HOST,
        "MASTER_PORT": "0",  # nobody listens
        "TORCHELASTIC_RUN_ID": "local",  # tells Lightning that the ranks are already started
        placement.INTERFACE: _LOOPBACK,
        "NCCL_SOCKET_IFNAME": _LOOPBACK,
        MEETING: str(meeting),
        placement.RUN_KEY: secrets.token_hex(32),
    }


def _rank_variables(rank: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank)}


def _start(command: Sequence[str], env: Mapping[str, str], out: int) -> subprocess.Popen[bytes]:
    parent = os.getpid()
    return subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        env=dict(env),
        start_new_session=True,
        preexec_fn=lambda: begin_child(parent, signal.SIGKILL),
    )


def begin_child(parent: int, last: int) -> None:
    """Set up a new rank, or its launcher, to end with its parent and to ignore SIGUSR1 for now.

    Args:
        parent: the process that starts the rank.
        last: the signal that the rank gets when its parent dies.
    """
    die_with_parent(parent, last)
    # Slurm signals every process of a job, and one without a handler would die
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)

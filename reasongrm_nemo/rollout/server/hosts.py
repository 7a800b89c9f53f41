# SPDX-License-Identifier: Apache-2.0
"""The machine that runs a rollout server's process: this one, or a node on which an agent starts it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.processes import child, placement, scratch
from reasongrm_nemo.rollout.http import call
from reasongrm_nemo.rollout.server.settings import HOST, RolloutSettings
from reasongrm_nemo.rollout.types import RolloutServerLost

_TIMEOUT_S = 30.0


class Host(Protocol):
    """Process operations on the machine that runs a server.

    Attributes:
        address: address that the server listens on.
    """

    address: str

    def describe(self) -> dict[str, str] | None:
        """Entry for the server's spec file; the inverse of `from_description`."""

    def free_port(self, wanted: int | None) -> int:
        """Return port ``wanted`` (UserError if taken), or any free port for None."""

    def start(
        self, settings: RolloutSettings, model_dir: Path, port: int, token: str, log: Path
    ) -> tuple[int, int]:
        """Start vLLM's server; return its process id and start time (see `child.start_ticks`)."""

    def alive(self, pid: int, ticks: int) -> bool:
        """Whether the process runs."""

    def exit_cause(self, pid: int) -> str:
        """How the process ended, or an empty string if unknown."""

    def end_group(self, pid: int, ticks: int, grace_s: float) -> None:
        """End the process and all its children."""


class ThisMachine:
    """Runs servers as child processes of this process, listening on `address`."""

    def __init__(self, address: str = HOST) -> None:
        self.address = address

    def describe(self) -> dict[str, str] | None:
        """None: readers of the spec file are on the same machine."""
        return None

    def free_port(self, wanted: int | None) -> int:
        """See `Host`."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.address, wanted or 0))
                probe.listen(1)
                # binding succeeds even if the interface is down; connect to check that it is reachable
                socket.create_connection(probe.getsockname(), timeout=10).close()
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
                why = "is already taken" if error.errno == errno.EADDRINUSE else "is not allowed"
                raise UserError(
                    f"Port {wanted} (rollout.port) {why} on {self.address}; choose another port, or null for "
                    "any free one."
                ) from None
            return int(probe.getsockname()[1])

    def start(
        self, settings: RolloutSettings, model_dir: Path, port: int, token: str, log: Path
    ) -> tuple[int, int]:
        """See `Host`."""
        command = [settings.python, "-m", "reasongrm_nemo.rollout.server.vllm_main"]
        command += settings.arguments(model_dir, port, self.address)
        pid = child.spawn(command, settings.environment(token, self.address), log)
        return pid, child.start_ticks(pid)

    def alive(self, pid: int, ticks: int) -> bool:
        """See `Host`."""
        return child.alive(pid, ticks)

    def exit_cause(self, pid: int) -> str:
        """See `Host`."""
        return child.exit_cause(pid)

    def end_group(self, pid: int, ticks: int, grace_s: float) -> None:
        """See `Host`."""
        child.end_group(pid, ticks, grace_s)
        scratch.sweep_dead_folders()


class RemoteNode:
    """Runs servers on another node through its agent (`agent.py`).

    Args:
        url: the agent's URL.
        token: the agent's token.
        address: address that servers on the node listen on.
        node: the node's name.
    """

    def __init__(self, url: str, token: str, address: str, node: str) -> None:
        self.url, self.token, self.address, self.node = url, token, address, node

    def describe(self) -> dict[str, str] | None:
        """See `Host`."""
        return {"url": self.url, "token": self.token, "address": self.address, "node": self.node}

    def free_port(self, wanted: int | None) -> int:
        """See `Host`."""
        return int(self._ask("free_port", wanted=wanted))

    def start(
        self, settings: RolloutSettings, model_dir: Path, port: int, token: str, log: Path
    ) -> tuple[int, int]:
        """See `Host`; uses the settings and log that the agent was started with."""
        pid, ticks = self._ask("start", model_dir=str(model_dir), port=port, token=token)
        return int(pid), int(ticks)

    def alive(self, pid: int, ticks: int) -> bool:
        """See `Host`; False if the node's agent does not answer."""
        try:
            return bool(self._ask("alive", pid=pid, ticks=ticks))
        except RolloutServerLost:
            return False

    def exit_cause(self, pid: int) -> str:
        """See `Host`."""
        try:
            return str(self._ask("exit_cause", pid=pid))
        except RolloutServerLost:
            return f"is gone with its node {self.node}, whose agent does not answer"

    def end_group(self, pid: int, ticks: int, grace_s: float) -> None:
        """See `Host`; if the agent does not answer, Slurm ends the process at the end of the job."""
        with contextlib.suppress(RolloutServerLost):
            self._ask("end_group", _TIMEOUT_S + grace_s, pid=pid, ticks=ticks, grace_s=grace_s)

    def _ask(self, name: str, timeout_s: float = _TIMEOUT_S, **arguments: Any) -> Any:
        answer = call(self.url, self.token, "POST", f"/{name}", timeout_s, arguments)
        if "refused" in answer:
            raise UserError(f"On {self.node}: {answer['refused']}")
        return answer["answer"]


def from_description(data: Mapping[str, str] | None) -> Host:
    """The host that a spec file names."""
    return ThisMachine() if data is None else RemoteNode(**data)


class AgentStep:
    """Starts a server's agent on its node with srun; the agent ends with this process.

    Args:
        command: the complete command line, including srun.
        settings: settings of the server to start.
        node: the node's name, for messages.
        log: log of the server and the agent.
        timeout_s: longest wait for the agent.

    Raises:
        UserError: the agent did not start; the message quotes the end of its log.
    """

    def __init__(
        self, command: Sequence[str], settings: RolloutSettings, node: str, log: Path, timeout_s: float
    ) -> None:
        self._node, self._log = node, log
        token, parent = secrets.token_urlsafe(32), os.getpid()
        with log.open("ab") as out:
            # SIGTERM lets srun end its step; after SIGKILL the step would run until the end of the job
            self._step = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                env=placement.srun_environment(os.environ),
                start_new_session=True,
                preexec_fn=lambda: child.die_with_parent(parent, signal.SIGTERM),
            )
        # pass the token through stdin, which, unlike arguments or files, nobody else can read
        begin = {"settings": settings.to_dict(), "log": str(log), "token": token}
        assert self._step.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._step.stdin.write(json.dumps(begin).encode() + b"\n")
            self._step.stdin.flush()
        agent = self._announcement(timeout_s)
        self.host = RemoteNode(agent["url"], token, agent["address"], node)

    def _announcement(self, timeout_s: float) -> dict[str, str]:
        timer = threading.Timer(timeout_s, self._step.terminate)
        timer.start()
        try:
            assert self._step.stdout is not None
            for line in self._step.stdout:
                if line.startswith(b'{"agent"'):  # skip lines that a container prints at start
                    agent: dict[str, str] = json.loads(line)["agent"]
                    return agent
        finally:
            timer.cancel()
        self.close()
        words = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        raise UserError(
            f"The rollout server's agent did not start on {self._node} (log: {self._log}); its last line: "
            + (words[0] if words else "none")
        )

    def close(self) -> None:
        """End the agent and the processes that it started."""
        assert self._step.stdin is not None
        with contextlib.suppress(OSError):
            self._step.stdin.close()
        try:
            self._step.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._step.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._step.wait(timeout=20)

# SPDX-License-Identifier: Apache-2.0
"""A rollout server's agent on a Slurm node: `srun ... python -m reasongrm_nemo.rollout.server.agent`.

The process that controls a server may run on another node and lack srun (a trainer's container has none).
It asks this agent to start, watch and stop the server. The agent reads settings and token from stdin and
ends when stdin closes. `_Agent` lists all its requests; it starts only vLLM, with the settings from stdin.
"""

from __future__ import annotations

import hmac
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.processes import placement
from reasongrm_nemo.processes.node_scratch import own_scratch
from reasongrm_nemo.rollout.server.hosts import ThisMachine
from reasongrm_nemo.rollout.server.settings import RolloutSettings

_LARGEST_REQUEST = 65536


class _Agent:
    def __init__(self, settings: RolloutSettings, log: Path, address: str) -> None:
        # inside a container the rollout environment's python has another path: the one running this agent
        self._settings, self._log = replace(settings, python=sys.executable), log
        self._machine = ThisMachine(address)
        self._started: dict[int, int] = {}
        self.asked: dict[str, Callable[..., Any]] = {
            "free_port": self._machine.free_port,
            "start": self._start,
            "alive": self._machine.alive,
            "exit_cause": self._machine.exit_cause,
            "end_group": self._end_group,
        }

    def _start(self, model_dir: str, port: int, token: str) -> tuple[int, int]:
        pid, ticks = self._machine.start(self._settings, Path(model_dir), port, token, self._log)
        self._started[pid] = ticks
        return pid, ticks

    def _end_group(self, pid: int, ticks: int, grace_s: float) -> None:
        if self._started.get(pid) == ticks:
            self._machine.end_group(pid, ticks, grace_s)

    def end_all(self) -> None:
        for pid, ticks in list(self._started.items()):
            self._machine.end_group(pid, ticks, 5.0)


def _handler(agent: _Agent, token: str) -> type[BaseHTTPRequestHandler]:
    expected = f"Bearer {token}".encode()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            """Keep requests out of the server's log."""

        def do_POST(self) -> None:
            name = self.path.removeprefix("/")
            if not hmac.compare_digest(self.headers.get("Authorization", "").encode(), expected):
                return self._answer(401, {"error": "unauthorized"})
            size = int(self.headers.get("Content-Length") or 0)
            if name not in agent.asked or size > _LARGEST_REQUEST:
                return self._answer(404, {"error": f"no {name} here"})
            try:
                self._answer(200, {"answer": agent.asked[name](**json.loads(self.rfile.read(size) or b"{}"))})
            except UserError as error:
                self._answer(200, {"refused": str(error)})
            except Exception as error:
                self._answer(500, {"error": f"{type(error).__name__}: {error}"})

        def _answer(self, status: int, data: dict[str, Any]) -> None:
            body = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def main() -> None:
    """Serve until stdin closes."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        # Slurm signals all of a job's processes; only the run's main process reacts
        signal.signal(number, signal.SIG_IGN)
    begin = json.loads(sys.stdin.readline())
    own_scratch()
    launched_from = os.environ.get("SLURM_LAUNCH_NODE_IPADDR")
    address = placement.own_address([launched_from] if launched_from else [])
    agent = _Agent(RolloutSettings.from_dict(begin["settings"]), Path(begin["log"]), address)
    server = ThreadingHTTPServer((address, 0), _handler(agent, begin["token"]))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://{address}:{server.server_port}"
    print(json.dumps({"agent": {"url": url, "address": address}}), flush=True)
    sys.stdin.read()
    agent.end_all()


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The spec file of a rollout server: settings and address, from which any process can make a handle."""

from __future__ import annotations

import glob
import json
import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.processes.secret_values import hide_all
from reasongrm_nemo.rollout.server.hosts import Host, from_description
from reasongrm_nemo.rollout.server.settings import RolloutSettings
from reasongrm_nemo.rollout.types import RolloutServerLost

if TYPE_CHECKING:
    from typing_extensions import Self

STOPPED: dict[str, Any] = {"pid": 0, "ticks": 0, "url": "", "token": "", "weights": None, "asleep": False}
"""Entries of the spec file when no server runs."""
# One lock for all files: several handles in a process may share a file, and writes are short.
_WRITING = threading.Lock()


class DescribedServer:
    """A server described by its spec file.

    The file holds the settings, the current address and the API token; only its owner can read it. Every
    change replaces the file atomically, which lets handles in other processes follow a restart.
    """

    settings: RolloutSettings
    host: Host
    log_path: Path
    _spec: Path

    def _describe(self, model_dir: Path) -> None:
        """Create the file for a server that does not run yet."""
        self._spec.parent.mkdir(parents=True, exist_ok=True)
        # A file from an earlier run describes a server that died with that run.
        self._spec.unlink(missing_ok=True)
        for left in self._spec.parent.glob(f"{glob.escape(self._spec.name)}.*.tmp"):
            left.unlink(missing_ok=True)
        self._write(
            settings=without_environment(self.settings),
            host=self.host.describe(),
            log_path=str(self.log_path),
            model_dir=str(model_dir.resolve()),
            starts=0,
            log_start=0,
            **STOPPED,
        )

    def spec(self) -> Path:
        """Path of the spec file, from which another process can make a handle."""
        return self._spec

    @classmethod
    def from_spec(cls, path: str | Path) -> Self:
        """Make a handle for a server that another process started.

        Raises:
            UserError: the file does not exist or is not a spec file.
        """
        server = cls.__new__(cls)
        server._spec = Path(path)
        try:
            state = server.state()
            server.settings = RolloutSettings.from_dict(state["settings"])
            server.host = from_description(state["host"])
            server.log_path = Path(state["log_path"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} does not describe a rollout server ({error}).") from error
        return server

    def state(self) -> dict[str, Any]:
        """The file's current content: settings, log_path, url, token, pid, ticks, starts, model_dir, ..."""
        state: dict[str, Any] = json.loads(self._spec.read_text())
        return state

    def _write(self, **changes: Any) -> None:
        """Change entries of the file; safe if another thread changes others (a restart during a push)."""
        with _WRITING:
            state = (self.state() if self._spec.exists() else {}) | changes
            # A unique name, and readable only by its owner from the start.
            handle, aside = tempfile.mkstemp(".tmp", self._spec.name + ".", self._spec.parent)
            with os.fdopen(handle, "w") as out:
                json.dump(state, out, indent=1)
            os.replace(aside, self._spec)

    @property
    def url(self) -> str:
        """`http://address:port` of the running server."""
        return str(self._running()["url"])

    @property
    def token(self) -> str:
        """API token of the running server."""
        return str(self._running()["token"])

    @property
    def starts(self) -> int:
        """How many times the server was started; identifies one start of the server."""
        return int(self.state()["starts"])

    @property
    def model_dir(self) -> Path:
        """The model folder that the server was last asked to serve."""
        return Path(self.state()["model_dir"])

    @property
    def asleep(self) -> bool:
        """Whether the server sleeps: its weights and KV cache are off the GPU."""
        return bool(self.state()["asleep"])

    def _running(self) -> dict[str, Any]:
        """The file's content, if the server runs.

        Raises:
            RolloutServerLost: no server runs.
        """
        state = self.state()
        if not state["pid"]:
            raise RolloutServerLost("The rollout server is not running.")
        return state


def without_environment(settings: RolloutSettings) -> dict[str, Any]:
    """Settings with the values of `extra_env` hidden, for a file that may outlive the server."""
    return settings.to_dict() | {"extra_env": hide_all(settings.extra_env)}

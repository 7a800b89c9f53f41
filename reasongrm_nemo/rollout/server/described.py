# SPDX-License-Identifier: Apache-2.0
"""What a rollout server is and where it runs, in a file from which any process makes its handle."""

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
"""What the file says where nothing runs."""
# One for all files: several objects of a process may name the same one, and a write takes no time.
_WRITING = threading.Lock()


class DescribedServer:
    """A server as its describing file tells it.

    The file holds what to start, where it runs now and the API token; it is readable by its owner only and
    rewritten whole at each change, so that a handle in another process follows a restart.
    """

    settings: RolloutSettings
    host: Host
    log_path: Path
    _spec: Path

    def _describe(self, model_dir: Path) -> None:
        """Write the file anew, for a server that does not run yet."""
        self._spec.parent.mkdir(parents=True, exist_ok=True)
        # A file left by an earlier run describes a server that died with that run.
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
        """The file from which another process makes its handle."""
        return self._spec

    @classmethod
    def from_spec(cls, path: str | Path) -> Self:
        """Take hold of a server that another process started.

        Raises:
            UserError: no such file, or not one of ours.
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
        """What the file says now: settings, log_path, url, token, pid, ticks, starts, model_dir, weights."""
        state: dict[str, Any] = json.loads(self._spec.read_text())
        return state

    def _write(self, **changes: Any) -> None:
        """Change what the file says, whatever another thread changes in it (a restart during a push)."""
        with _WRITING:
            state = (self.state() if self._spec.exists() else {}) | changes
            # Its own name, and readable by its owner only from the first.
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
        """Its API token."""
        return str(self._running()["token"])

    @property
    def starts(self) -> int:
        """How many times it was started: another number, another server."""
        return int(self.state()["starts"])

    @property
    def model_dir(self) -> Path:
        """The folder it was last asked to serve."""
        return Path(self.state()["model_dir"])

    @property
    def asleep(self) -> bool:
        """Whether its weights and KV cache are off the GPU."""
        return bool(self.state()["asleep"])

    def _running(self) -> dict[str, Any]:
        """What the file says of a server that runs.

        Raises:
            RolloutServerLost: none does.
        """
        state = self.state()
        if not state["pid"]:
            raise RolloutServerLost("The rollout server is not running.")
        return state


def without_environment(settings: RolloutSettings) -> dict[str, Any]:
    """Settings for a file that may outlast the server, without the values of their environment."""
    return settings.to_dict() | {"extra_env": hide_all(settings.extra_env)}

# SPDX-License-Identifier: Apache-2.0
"""The rollout server: one vLLM API server, started, watched, refilled and stopped."""

from __future__ import annotations

import glob
import json
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.processes import child
from reasongrm_nemo.processes.secret_values import hide_all
from reasongrm_nemo.rollout.http import call
from reasongrm_nemo.rollout.server.hosts import Host, ThisMachine, from_description
from reasongrm_nemo.rollout.server.same_shape import same_shape, weights_stamp
from reasongrm_nemo.rollout.server.settings import RolloutSettings
from reasongrm_nemo.rollout.server.vllm_log import last_words
from reasongrm_nemo.rollout.types import RolloutServerLost

_STOP_GRACE_S = 10.0
_PORT_TRIES = 3
_STOPPED: dict[str, Any] = {"pid": 0, "ticks": 0, "url": "", "token": "", "weights": None, "asleep": False}
# One for all files: several objects of a process may name the same one, and a write takes no time.
_WRITING = threading.Lock()


class RolloutServer:
    """A vLLM server on this machine's loopback or on a node, described by a file that any process may open.

    The file holds what to start, where it runs now and the API token; it is readable by its owner only and
    rewritten whole at each start, so that a handle in another process follows a restart.  One process at a
    time drives the server.  Whoever started it last is its parent: the server dies with that process.

    vLLM's own key check guards /v1 only, not the routes that load weights; `vllm_plugin.RequireToken` guards
    all of them, and the server listens on its host's one address: loopback on this machine.

    Args:
        settings: what to start.
        model_dir: Hugging Face folder to serve.
        log_path: the server's output is appended here.
        spec_path: the describing file; None: `log_path` with the suffix `.spec.json`.
        host: where it runs; None: this machine.
    """

    on_failed_start: Callable[[str], None] | None = None
    """Told why a start failed that is tried once more."""
    _killed: int | None = None

    def __init__(
        self,
        settings: RolloutSettings,
        model_dir: Path,
        log_path: Path,
        spec_path: Path | None = None,
        host: Host | None = None,
    ):
        self.settings = settings
        self.host = host or ThisMachine()
        self.log_path = Path(log_path).resolve()
        self._spec = Path(spec_path) if spec_path else self.log_path.with_suffix(".spec.json")
        self._spec.parent.mkdir(parents=True, exist_ok=True)
        # A file left by an earlier run describes a server that died with that run.
        self._spec.unlink(missing_ok=True)
        for left in self._spec.parent.glob(f"{glob.escape(self._spec.name)}.*.tmp"):
            left.unlink(missing_ok=True)
        self._write(
            settings=settings.to_dict() | {"extra_env": hide_all(settings.extra_env)},
            host=self.host.describe(),
            log_path=str(self.log_path),
            model_dir=str(Path(model_dir).resolve()),
            starts=0,
            log_start=0,
            **_STOPPED,
        )

    # ---- the describing file

    def spec(self) -> Path:
        """The file from which another process makes its handle."""
        return self._spec

    @classmethod
    def from_spec(cls, path: str | Path) -> RolloutServer:
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
        found: dict[str, Any] = json.loads(self._spec.read_text())
        return found

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

    def _running(self) -> dict[str, Any]:
        state = self.state()
        if not state["pid"]:
            raise RolloutServerLost("The rollout server is not running.")
        return state

    # ---- life

    def start(self) -> None:
        """Start and wait until it answers; nothing is done if it runs already.

        Raises:
            UserError: it did not start; the sentence holds its last words.
        """
        if self.is_alive():
            return
        model_dir = self.model_dir
        if not (model_dir / "config.json").is_file():
            raise UserError(f"The model folder {model_dir} has no config.json.")
        died = False
        for attempt in range(_PORT_TRIES):
            port = self.host.free_port(self.settings.port)
            try:
                return self._start(model_dir, port)
            except _DiedStarting as error:
                # Another process may take a free port between the asking and the listening.
                words = last_words(self.log_path, self.state()["log_start"])
                lost_race = self.settings.port is None and "address already in use" in words.lower()
                again = lost_race or not (died or any(sign in words for sign in _NOT_INSTALLED))
                if not again or attempt == _PORT_TRIES - 1:
                    raise UserError(f"{error}{' It was tried twice.' if died else ''}") from None
                if not lost_race:
                    died = True
                    self._tell(f"{error} It is started once more.")

    def _tell(self, what: str) -> None:
        with self.log_path.open("a") as log:
            log.write(f"reasongrm: {what}\n")
        if self.on_failed_start is not None:
            self.on_failed_start(what)

    def _start(self, model_dir: Path, port: int) -> None:
        token = secrets.token_urlsafe(32)
        log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        started = time.monotonic()
        pid, ticks = self.host.start(self.settings, model_dir, port, token, self.log_path)
        self._write(
            settings=self.settings.to_dict(),
            url=f"http://{self.host.address}:{port}",
            token=token,
            pid=pid,
            ticks=ticks,
            parent=[os.getpid(), child.start_ticks(os.getpid())],
            starts=self.starts + 1,
            model_dir=str(model_dir),
            weights=weights_stamp(model_dir),
            log_start=log_start,
            asleep=False,
        )
        try:
            self._wait_until_healthy(started)
        except BaseException:
            self.stop(grace_s=0)
            raise

    def _wait_until_healthy(self, started: float) -> None:
        state = self.state()
        while True:
            if not self.host.alive(state["pid"], state["ticks"]):
                raise _DiedStarting(self._start_failure(self.host.exit_cause(state["pid"]), errors_only=True))
            try:
                call(state["url"], state["token"], "GET", "/health", 5.0)
                return
            except RolloutServerLost:
                pass
            waited = time.monotonic() - started
            if waited > self.settings.start_timeout_s:
                why = f"was not ready after {waited:.0f} s (rollout.start_timeout_s)"
                raise UserError(self._start_failure(why))
            time.sleep(0.1)

    def _start_failure(self, why: str, errors_only: bool = False) -> str:
        words = last_words(self.log_path, self.state()["log_start"], errors_only)
        if any(sign in words for sign in _NOT_INSTALLED):
            return (
                f"The rollout environment of {self.settings.python} lacks this package or vLLM ({words}): "
                "install both there (make setup, or pip install --no-deps of this package beside vLLM)."
            )
        said = f"; {'its last error' if errors_only else 'it last said'}: {words}" if words else ""
        return f"The rollout server {why or 'ended'} while starting (log: {self.log_path}){said}."

    def is_alive(self) -> bool:
        """Whether its process runs."""
        state = self.state()
        return bool(state["pid"]) and self.host.alive(state["pid"], state["ticks"])

    def vanished(self) -> bool:
        """Whether it was started and its process is gone, although nobody stopped it.

        A server of this machine dies with the process that started it, which may have come to its own end.
        """
        state = self.state()
        if not state["pid"] or self.host.alive(state["pid"], state["ticks"]):
            return False
        return self.host.describe() is not None or child.alive(*state.get("parent", (0, 0)))

    def check(self) -> None:
        """Return if the server runs and answers.

        Raises:
            RolloutServerLost: with the cause.
        """
        state = self._running()
        if not self.host.alive(state["pid"], state["ticks"]):
            why = self.host.exit_cause(state["pid"]) or "is gone"
            words = last_words(self.log_path, state["log_start"], errors_only=True)
            said = f"; it last said: {words}" if words else ""
            raise RolloutServerLost(f"The rollout server (process {state['pid']}) {why}{said}.")
        call(state["url"], state["token"], "GET", "/health", 5.0)

    def cause_of(self, loss: RolloutServerLost) -> str:
        """Why it was really lost: what the process and its log know besides what the client saw."""
        deadline = time.monotonic() + 2.0  # a server whose engine died is about to end too
        while self.is_alive() and "made no progress" not in str(loss) and time.monotonic() < deadline:
            time.sleep(0.05)
        state = self.state()
        # where this process killed it, its exit status says nothing
        why = "" if self.is_alive() or self._killed == state["starts"] else self.host.exit_cause(state["pid"])
        if "killed" in why:
            return f"The rollout server (process {state['pid']}) {why}."
        words = last_words(self.log_path, state["log_start"], errors_only=True)
        parts = [str(loss).rstrip("."), why and f"its process {why}", words and f"it last said: {words}"]
        return "; ".join(part for part in parts if part) + "."

    def restart(self) -> None:
        """End what is left of it and start anew with its last model folder."""
        self.stop(grace_s=0)
        self.start()

    def stop(self, grace_s: float = _STOP_GRACE_S) -> None:
        """End it and all its processes: SIGTERM, then SIGKILL after `grace_s`."""
        state = self.state()
        if state["pid"]:
            self.host.end_group(state["pid"], state["ticks"], grace_s)
            own = self.settings.to_dict()
            # who starts it again writes them again
            self._write(settings=own | {"extra_env": hide_all(own["extra_env"])}, **_STOPPED)

    def kill(self, start: int | None = None) -> None:
        """End its processes at once, whatever another thread does with it; that one then sees it gone.

        Args:
            start: only if this start of it (see `starts`) is its last; another thread may have begun one.
        """
        state = self.state()
        if state["pid"] and start in (None, state["starts"]):
            self._killed = state["starts"]
            self.host.end_group(state["pid"], state["ticks"], 0)

    # ---- sleep

    @property
    def asleep(self) -> bool:
        """Whether its weights and KV cache are off the GPU."""
        return bool(self.state()["asleep"])

    def sleep(self) -> None:
        """Give up the GPU memory of weights and KV cache.  Nothing may be in flight; asleep: nothing is done.

        Level 2 of vLLM: the weights are dropped, not kept in host memory (level 1), because a trainer pushes
        new ones before the next rollout anyway and the host has the optimizer's state to hold.

        Raises:
            RolloutServerLost: it did not.
        """
        if not self.asleep:
            self._write(asleep=True, weights=None)
            self._sleep_call("/sleep?level=2")

    def wake(self, *tags: str) -> None:
        """Take the memory back; it holds no weights until some are loaded.  Awake: nothing is done.

        Args:
            tags: `weights` or `kv_cache` alone, so that the cache does not take the room that loading needs;
                none: all.  The server works again once the last of the two is awake.

        Raises:
            RolloutServerLost: it did not.
        """
        if self.asleep:
            self._sleep_call("/wake_up" + ("?" + "&".join(f"tags={tag}" for tag in tags) if tags else ""))
            self._write(asleep=tags == ("weights",))

    def _sleep_call(self, path: str) -> None:
        state = self._running()
        call(state["url"], state["token"], "POST", path, self.settings.start_timeout_s)

    def __enter__(self) -> RolloutServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ---- weights

    def use(self, model_dir: Path) -> None:
        """Serve the weights of another Hugging Face folder.

        They are loaded in place when the architecture and sizes are those of the running model; otherwise, or
        when nothing runs, the server is started anew.  Nothing may be in flight.

        Raises:
            UserError: no such model, or the server did not start.
        """
        model_dir = Path(model_dir).resolve()
        if not (model_dir / "config.json").is_file():
            raise UserError(f"The model folder {model_dir} has no config.json.")
        stamp = weights_stamp(model_dir)
        if self.is_alive():
            if self.state()["weights"] == stamp:
                return
            if same_shape(self.model_dir, model_dir):
                try:
                    self.wake()
                    return self._reload(model_dir, stamp)
                except RolloutServerLost:
                    pass  # half-loaded: start anew
        self.stop()
        self._write(model_dir=str(model_dir))
        self.start()

    def _reload(self, model_dir: Path, stamp: str) -> None:
        state = self._running()
        # Only the engine itself answers this; the load may then take as long as a start.
        call(state["url"], state["token"], "GET", "/is_paused", self.settings.stall_timeout_s)
        self._write(weights=None)
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(model_dir)}}
        call(state["url"], state["token"], "POST", "/collective_rpc", self.settings.start_timeout_s, body)
        reset_prefix_cache(self)
        timeout_s, body = self.settings.stall_timeout_s, {"new_version": "folder"}  # none that was pushed
        call(state["url"], state["token"], "POST", "/update_weight_version", timeout_s, body)
        self._write(model_dir=str(model_dir), weights=stamp)

    def forget_weights(self) -> None:
        """Note that the server no longer holds the weights of its model folder (they were pushed over)."""
        self._write(weights=None)


class _DiedStarting(UserError):
    """The server's process ended before it answered."""


# Its plug-in is found by an entry point, so an import path alone is not enough.
_NOT_INSTALLED = ("No module named", "Invalid weight transfer backend")


def reset_prefix_cache(server: RolloutServer) -> None:
    """Drop the keys and values that older weights computed, also those of requests in flight.

    Requests in flight keep their tokens; their keys and values are computed again.

    Raises:
        RolloutServerLost: the server does not, or did not do it.
    """
    path = "/reset_prefix_cache?reset_running_requests=true"
    answer = call(server.url, server.token, "POST", path, server.settings.stall_timeout_s)
    if not (isinstance(answer, dict) and answer.get("success")):
        raise RolloutServerLost(
            "The rollout server could not drop its prefix cache after a change of weights."
        )

# SPDX-License-Identifier: Apache-2.0
"""The rollout server: one vLLM API server, started, watched, refilled and stopped."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.processes import child
from reasongrm_nemo.rollout.http import call
from reasongrm_nemo.rollout.server.described import STOPPED, DescribedServer, without_environment
from reasongrm_nemo.rollout.server.hosts import Host, ThisMachine
from reasongrm_nemo.rollout.server.same_shape import same_shape, weights_stamp
from reasongrm_nemo.rollout.server.settings import RolloutSettings
from reasongrm_nemo.rollout.server.vllm_log import last_words
from reasongrm_nemo.rollout.types import RolloutServerLost

_STOP_GRACE_S = 10.0
_PORT_TRIES = 3


class RolloutServer(DescribedServer):
    """A vLLM server on this machine's loopback or on a node, described by a file that any process may open.

    One process at a time drives the server.  Whoever started it last is its parent: the server dies with that
    process.

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
        self._describe(Path(model_dir))

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
            # who starts it again writes the environment again
            self._write(settings=without_environment(self.settings), **STOPPED)

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

# SPDX-License-Identifier: Apache-2.0
"""The rollout server: starts, watches, reloads and stops one vLLM API server."""

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
    """A vLLM server on this machine's loopback interface or on a node, with a spec file for other processes.

    One process at a time controls the server.  The server dies with the process that last started it.

    vLLM's key check guards only /v1, not the routes that load weights; `vllm_plugin.RequireToken` guards all
    routes, and the server listens on one address: on this machine, loopback.

    Args:
        settings: the server's settings.
        model_dir: Hugging Face folder to serve.
        log_path: file to which the server's output is appended.
        spec_path: the spec file; None: `log_path` with the suffix `.spec.json`.
        host: machine to run on; None: this machine.
    """

    on_failed_start: Callable[[str], None] | None = None
    """Called with the cause of a failed start that is retried."""
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
        """Start the server and wait until it answers; no effect if it already runs.

        Raises:
            UserError: the server did not start; the message quotes its log.
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
                # Another process may take a free port before the server listens on it.
                words = last_words(self.log_path, self.state()["log_start"])
                lost_race = self.settings.port is None and "address already in use" in words.lower()
                again = lost_race or not (died or any(sign in words for sign in _NOT_INSTALLED))
                if not again or attempt == _PORT_TRIES - 1:
                    raise UserError(f"{error}{' It was tried twice.' if died else ''}") from None
                if not lost_race:
                    died = True
                    self._tell(f"{error} Starting it once more.")

    def _tell(self, message: str) -> None:
        with self.log_path.open("a") as log:
            log.write(f"reasongrm: {message}\n")
        if self.on_failed_start is not None:
            self.on_failed_start(message)

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
                f"The rollout environment of {self.settings.python} lacks this package or vLLM ({words}); "
                "install both there (make setup, or pip install --no-deps of this package beside vLLM)."
            )
        quote = f"; its last {'error' if errors_only else 'line'}: {words}" if words else ""
        return f"The rollout server {why or 'ended'} while starting (log: {self.log_path}){quote}."

    def is_alive(self) -> bool:
        """Whether the server's process runs."""
        state = self.state()
        return bool(state["pid"]) and self.host.alive(state["pid"], state["ticks"])

    def vanished(self) -> bool:
        """Whether the server was started and its process is gone without having been stopped.

        False if the server died with the process that started it, as servers on this machine do.
        """
        state = self.state()
        if not state["pid"] or self.host.alive(state["pid"], state["ticks"]):
            return False
        return self.host.describe() is not None or child.alive(*state.get("parent", (0, 0)))

    def check(self) -> None:
        """Check that the server runs and answers.

        Raises:
            RolloutServerLost: it does not; the message is the cause.
        """
        state = self._running()
        if not self.host.alive(state["pid"], state["ticks"]):
            why = self.host.exit_cause(state["pid"]) or "is gone"
            words = last_words(self.log_path, state["log_start"], errors_only=True)
            quote = f"; its last error: {words}" if words else ""
            raise RolloutServerLost(f"The rollout server (process {state['pid']}) {why}{quote}.")
        call(state["url"], state["token"], "GET", "/health", 5.0)

    def cause_of(self, loss: RolloutServerLost) -> str:
        """The cause of a loss: what the client saw, the process's exit status and the log's last error."""
        deadline = time.monotonic() + 2.0  # a server whose engine died ends soon after
        while self.is_alive() and "made no progress" not in str(loss) and time.monotonic() < deadline:
            time.sleep(0.05)
        state = self.state()
        # if this process killed the server, its exit status is meaningless
        why = "" if self.is_alive() or self._killed == state["starts"] else self.host.exit_cause(state["pid"])
        if "killed" in why:
            return f"The rollout server (process {state['pid']}) {why}."
        words = last_words(self.log_path, state["log_start"], errors_only=True)
        parts = [str(loss).rstrip("."), why and f"its process {why}", words and f"its last error: {words}"]
        return "; ".join(part for part in parts if part) + "."

    def restart(self) -> None:
        """Kill the server if it still runs, and start it with its last model folder."""
        self.stop(grace_s=0)
        self.start()

    def stop(self, grace_s: float = _STOP_GRACE_S) -> None:
        """Stop the server and all its processes: SIGTERM, then SIGKILL after `grace_s`."""
        state = self.state()
        if state["pid"]:
            self.host.end_group(state["pid"], state["ticks"], grace_s)
            # hide the environment's values; the next start writes them again
            self._write(settings=without_environment(self.settings), **STOPPED)

    def kill(self, start: int | None = None) -> None:
        """Kill the server's processes at once, even while another thread uses the server.

        Args:
            start: kill only if the server's last start has this number (see `starts`); another thread may
                have restarted the server.
        """
        state = self.state()
        if state["pid"] and start in (None, state["starts"]):
            self._killed = state["starts"]
            self.host.end_group(state["pid"], state["ticks"], 0)

    # ---- sleep

    def sleep(self) -> None:
        """Free the GPU memory of weights and KV cache; no effect if asleep.  Nothing may be in flight.

        Uses vLLM's level 2, which drops the weights; level 1 would keep them in host memory, which the
        optimizer's state needs, and a trainer pushes new ones before the next rollout anyway.

        Raises:
            RolloutServerLost: the server did not answer.
        """
        if not self.asleep:
            self._write(asleep=True, weights=None)
            self._sleep_call("/sleep?level=2")

    def wake(self, *tags: str) -> None:
        """Allocate the GPU memory again, without loading weights; no effect if awake.

        Args:
            tags: `weights` or `kv_cache` to wake only one; none: both.  Waking `weights` first leaves room
                for loading.  The server works again once both are awake.

        Raises:
            RolloutServerLost: the server did not answer.
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
        """Switch to the weights of another Hugging Face folder.

        Loads the weights in place if architecture and sizes match the running model; otherwise, or if no
        server runs, starts the server.  Nothing may be in flight.

        Raises:
            UserError: the folder has no model, or the server did not start.
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
                    pass  # the weights may be half loaded: restart
        self.stop()
        self._write(model_dir=str(model_dir))
        self.start()

    def _reload(self, model_dir: Path, stamp: str) -> None:
        state = self._running()
        # Check quickly that the engine answers, because loading may take as long as a start.
        call(state["url"], state["token"], "GET", "/is_paused", self.settings.stall_timeout_s)
        self._write(weights=None)
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(model_dir)}}
        call(state["url"], state["token"], "POST", "/collective_rpc", self.settings.start_timeout_s, body)
        reset_prefix_cache(self)
        timeout_s, body = self.settings.stall_timeout_s, {"new_version": "folder"}  # not a pushed version
        call(state["url"], state["token"], "POST", "/update_weight_version", timeout_s, body)
        self._write(model_dir=str(model_dir), weights=stamp)

    def forget_weights(self) -> None:
        """Record that a push has replaced the weights of the server's model folder."""
        self._write(weights=None)


class _DiedStarting(UserError):
    """The server's process ended before it answered."""


# vLLM discovers the plug-in by its entry point, so the package must be installed, not just importable.
_NOT_INSTALLED = ("No module named", "Invalid weight transfer backend")


def reset_prefix_cache(server: RolloutServer) -> None:
    """Drop keys and values computed with older weights, including those of requests in flight.

    Requests in flight keep their tokens; their keys and values are recomputed.

    Raises:
        RolloutServerLost: the server does not answer or reports a failure.
    """
    path = "/reset_prefix_cache?reset_running_requests=true"
    answer = call(server.url, server.token, "POST", path, server.settings.stall_timeout_s)
    if not (isinstance(answer, dict) and answer.get("success")):
        raise RolloutServerLost("The rollout server could not drop its prefix cache after a weight update.")

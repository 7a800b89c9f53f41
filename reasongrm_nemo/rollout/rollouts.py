# SPDX-License-Identifier: Apache-2.0
"""Requests completions from several servers and restarts servers that are lost."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from reasongrm_nemo.rollout.client import RolloutClient
from reasongrm_nemo.rollout.dispatch import Dispatch, Loss
from reasongrm_nemo.rollout.server.server import RolloutServer
from reasongrm_nemo.rollout.types import (
    Completion,
    Prompt,
    RolloutServerLost,
    Sampling,
    Scoring,
    prompts_at_once,
)

_BETWEEN = "The rollout server ended between two calls."


@dataclass(frozen=True)
class _Up:
    """Event: a server's restart is done."""

    server: RolloutServer


class Rollouts:
    """Completions for stages and trainers.

    Args:
        servers: the servers; started if they do not run.
        resync: gives restarted servers their weights (a trainer pushes its current ones); None: servers use
            their model folder.  Called on the caller's thread.
        on_loss: called from any thread with the cause of each loss, before the restart, and of each failed
            start that is retried.
    """

    versions = False
    """Whether to record with completions which version of the weights sampled them."""

    def __init__(
        self,
        servers: Sequence[RolloutServer],
        resync: Callable[[Sequence[RolloutServer]], None] | None = None,
        on_loss: Callable[[str], None] | None = None,
    ):
        self.servers = list(servers)
        self.resync = resync
        self.on_loss = on_loss
        self.losses: list[str] = []
        for server in self.servers:
            server.on_failed_start = self.tell
        self._restarting: Mapping[RolloutServer, object] = {}

    @classmethod
    def from_specs(cls, paths: Sequence[Path]) -> Rollouts:
        """Connect to servers that another process started, by their spec files."""
        return cls([RolloutServer.from_spec(path) for path in paths])

    def use(self, model_dir: Path) -> None:
        """Switch the servers to this model: load it in place, restart, or start if not running."""
        _at_once(self.servers, lambda server: server.use(model_dir))

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling | Scoring,
        on_completion: Callable[[list[Completion]], None] | None = None,
        timeout_s: float | None = None,
    ) -> list[list[Completion]]:
        """Request n completions of each prompt; see `stream`.

        Returns:
            A list of completions per prompt, in order; empty for prompts unanswered after `timeout_s`.
        """
        stream = self.stream(prompts, sampling, on_completion, timeout_s)
        done = {answer[0].prompt_id: answer for answer in stream}
        return [done.get(prompt.id, []) for prompt in prompts]

    def stream(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling | Scoring,
        on_completion: Callable[[list[Completion]], None] | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[list[Completion]]:
        """Yield each prompt's n completions as they arrive.

        A lost server is restarted while the others answer its prompts, and then gets prompts again.

        Args:
            prompts: prompts with unique ids.
            sampling: sampling options of all prompts.
            on_completion: called with each prompt's list as it arrives.
            timeout_s: seconds after which the call ends with the completions that have arrived, and the
                servers drop the rest; counted from the start or from the last restart of a lost server.  At
                least one answer is always awaited.  None: wait for all.

        Raises:
            RolloutServerLost: a server was lost a second time within this call.
            UserError: a server refused a request, or could not be restarted.
        """
        waiting = {prompt.id for prompt in prompts}
        if len(waiting) != len(prompts):
            raise ValueError("the prompts of one call must have unique ids")
        if not prompts:
            return
        with Dispatch(prompts, sampling) as dispatch, _Restarts(dispatch.events) as restarts:
            self._restarting = restarts.running
            running = self._running(restarts)
            clients = {self._client(server, sampling.n): server for server in running}
            dispatch.add(list(clients))
            lost: set[RolloutServer] = set()
            clock = _Clock(timeout_s)
            while waiting or restarts.running:
                event = clock.wait(dispatch.events, stopped=bool(restarts.running))
                if event is None:
                    break
                if isinstance(event, BaseException):
                    raise event
                if isinstance(event, list):
                    waiting.remove(event[0].prompt_id)
                    if on_completion is not None:
                        on_completion(event)
                    yield event
                    clock.answered = True
                elif isinstance(event, Loss):
                    server = clients.pop(event.client)
                    if server in lost:
                        raise event.cause
                    lost.add(server)
                    self._tell_loss(server, event)
                    restarts.begin(server)
                elif isinstance(event, _Up):
                    restarts.end(event.server, self.resync)
                    client = self._client(event.server, sampling.n)
                    clients[client] = event.server
                    dispatch.add([client])
                    clock.start()

    def _running(self, restarts: _Restarts) -> list[RolloutServer]:
        """The servers to begin with, awake; the others are being started."""
        running = [server for server in self.servers if server.is_alive()]
        for server in self.servers:
            if server not in running:
                if server.vanished():
                    self.tell(server.cause_of(RolloutServerLost(_BETWEEN)))
                restarts.begin(server)
        self._wake(running)
        return running

    def _tell_loss(self, server: RolloutServer, loss: Loss) -> None:
        are = "prompt is" if loss.asked == 1 else "prompts are"
        again = f" {loss.asked} {are} sent again." if loss.asked else ""
        self.tell(f"{server.cause_of(loss.cause)}{again}")

    def bring_up(self, servers: Sequence[RolloutServer]) -> None:
        """Restart servers and give them the current weights.

        Raises:
            UserError: a server did not start, or was lost again.
        """
        _at_once(servers, lambda server: server.restart())
        if self.resync is not None:
            self.resync(servers)

    def steady(self) -> list[RolloutServer]:
        """The servers that are not being restarted by a `stream` on another thread."""
        return [server for server in self.servers if server not in self._restarting]

    def sleep(self) -> None:
        """Free the servers' GPU memory until the next weight push; needs `rollout.sleep`."""
        _at_once(self.servers, lambda server: server.sleep())

    def _wake(self, servers: Sequence[RolloutServer]) -> None:
        """Wake sleeping servers and give them weights, which they dropped when going to sleep."""
        asleep = [server for server in servers if server.asleep]
        if asleep and self.resync is not None:
            self.resync(asleep)
        for server in asleep:
            if server.asleep:
                server.use(server.model_dir)

    def tell(self, cause: str) -> None:
        """Record a loss and pass it to `on_loss`."""
        self.losses.append(cause)
        if self.on_loss is not None:
            self.on_loss(cause)

    def _client(self, server: RolloutServer, samples: int) -> RolloutClient:
        settings = server.settings
        limit = prompts_at_once(settings.concurrency, settings.max_num_seqs, samples, len(self.servers))
        return RolloutClient(
            server.url, server.token, limit, settings.stall_timeout_s, server.is_alive, self.versions
        )

    def stop(self) -> None:
        """Stop the servers."""
        _at_once(self.servers, lambda server: server.stop())

    def __enter__(self) -> Rollouts:
        _at_once(self.servers, lambda server: server.start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _at_once(servers: Sequence[RolloutServer], work: Callable[[RolloutServer], None]) -> None:
    """Run ``work`` on all servers in parallel; an interruption kills servers that are not done."""
    if len(servers) == 1:
        return work(servers[0])
    with ThreadPoolExecutor(max(1, len(servers))) as pool:
        jobs = {pool.submit(work, server): server for server in servers}
        try:
            for job in jobs:
                job.result()
        except (KeyboardInterrupt, SystemExit):
            while unfinished := wait(jobs, timeout=0.2).not_done:
                for job in unfinished:
                    jobs[job].kill()
            raise


class _Clock:
    """Timeout of a `stream`."""

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self.answered = False
        self.start()

    def start(self) -> None:
        self._began = time.monotonic()

    def wait(self, events: queue.SimpleQueue[object], stopped: bool) -> object | None:
        """The next event, or None after the timeout; no timeout while stopped or before the first answer."""
        if self._timeout_s is None or stopped or not self.answered:
            return events.get()
        try:
            return events.get(timeout=max(0.0, self._began + self._timeout_s - time.monotonic()))
        except queue.Empty:
            return None


class _Restarts:
    """Servers being restarted, each on a thread; leaving the context stops those not yet brought up.

    Otherwise the next call could use a running server that has not received the current weights.
    """

    def __init__(self, events: queue.SimpleQueue[object]) -> None:
        self._events = events
        self.running: dict[RolloutServer, threading.Thread] = {}

    def __enter__(self) -> _Restarts:
        return self

    def begin(self, server: RolloutServer) -> None:
        """Restart a server; then put `_Up`, or the exception of a failed start, into the event queue."""

        def work() -> None:
            try:
                server.restart()
                self._events.put(_Up(server))
            except BaseException as error:
                self._events.put(error)

        self.running[server] = threading.Thread(target=work, name="rollout-restart", daemon=True)
        self.running[server].start()

    def end(self, server: RolloutServer, resync: Callable[[Sequence[RolloutServer]], None] | None) -> None:
        """Give a restarted server the current weights."""
        if resync is not None:
            resync([server])
        self.running.pop(server).join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server, thread in self.running.items():
            while thread.is_alive():
                server.kill()
                thread.join(0.2)
            server.stop(grace_s=0)

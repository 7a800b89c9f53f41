# SPDX-License-Identifier: Apache-2.0
"""Servers and clients together: completions that outlive the loss of a server."""

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
    """A server's restart is done."""

    server: RolloutServer


class Rollouts:
    """What stages and trainers ask for completions.

    Args:
        servers: started when they do not run.
        resync: brings restarted servers up to date, where their model folder is not what is wanted (a trainer
            pushes its current weights); None: the folder is.  Called on the caller's thread.
        on_loss: told the cause of each loss, before the restart, and of each start that failed and is tried
            once more; from any thread.
    """

    versions = False
    """Whether completions are to say which version of the weights sampled them."""

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
        """Take hold of servers that another process started, by their spec files."""
        return cls([RolloutServer.from_spec(path) for path in paths])

    def use(self, model_dir: Path) -> None:
        """Serve this model from now on: loaded in place or by a restart; started if nothing runs."""
        _at_once(self.servers, lambda server: server.use(model_dir))

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling | Scoring,
        on_completion: Callable[[list[Completion]], None] | None = None,
        timeout_s: float | None = None,
    ) -> list[list[Completion]]:
        """Ask for n completions of each prompt, in the order of `prompts`; see `stream`.

        Returns:
            A prompt's completions, or an empty list where `timeout_s` ended the call before they came.
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
        """Each prompt's n completions as they arrive.

        A server that is lost is started again while the others answer its prompts, and takes its share anew.

        Args:
            prompts: with ids that differ.
            sampling: for all of them.
            on_completion: called with each prompt's list as it arrives.
            timeout_s: the call ends so long after its beginning, or after the last return of a lost server,
                with what has arrived; the servers drop the rest.  It waits for the first answer however long
                that takes.  None: it waits for all.

        Raises:
            RolloutServerLost: a server was lost a second time within this call.
            UserError: one refused a request, or could not be started again.
        """
        waiting = {prompt.id for prompt in prompts}
        if len(waiting) != len(prompts):
            raise ValueError("the prompts of one call must have ids that differ")
        if not prompts:
            return
        with Dispatch(prompts, sampling) as dispatch, _Restarts(dispatch.events) as restarts:
            self._restarting = restarts.running
            running = [server for server in self.servers if server.is_alive()]
            for server in self.servers:
                if server not in running:
                    if server.vanished():
                        self.tell(server.cause_of(RolloutServerLost(_BETWEEN)))
                    restarts.begin(server)
            self._wake(running)
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
                    are = "prompt is" if event.asked == 1 else "prompts are"
                    again = f" {event.asked} {are} asked again." if event.asked else ""
                    self.tell(f"{server.cause_of(event.cause)}{again}")
                    restarts.begin(server)
                elif isinstance(event, _Up):
                    restarts.end(event.server, self.resync)
                    client = self._client(event.server, sampling.n)
                    clients[client] = event.server
                    dispatch.add([client])
                    clock.start()

    def bring_up(self, servers: Sequence[RolloutServer]) -> None:
        """Start these anew, and give them what they should serve.

        Raises:
            UserError: one did not start, or was lost again.
        """
        _at_once(servers, lambda server: server.restart())
        if self.resync is not None:
            self.resync(servers)

    def steady(self) -> list[RolloutServer]:
        """The servers that a call under way on another thread is not starting anew."""
        return [server for server in self.servers if server not in self._restarting]

    def sleep(self) -> None:
        """Give the servers' GPU memory away until the next push of weights; needs `rollout.sleep`."""
        _at_once(self.servers, lambda server: server.sleep())

    def _wake(self, servers: Sequence[RolloutServer]) -> None:
        """Those that sleep wake up; they have lost their weights."""
        asleep = [server for server in servers if server.asleep]
        if asleep and self.resync is not None:
            self.resync(asleep)
        for server in asleep:
            if server.asleep:
                server.use(server.model_dir)

    def tell(self, cause: str) -> None:
        """Note a loss; whoever listens is told."""
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
        """End the servers."""
        _at_once(self.servers, lambda server: server.stop())

    def __enter__(self) -> Rollouts:
        _at_once(self.servers, lambda server: server.start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _at_once(servers: Sequence[RolloutServer], work: Callable[[RolloutServer], None]) -> None:
    """Do something with all servers at the same time; an interruption ends those that are not done."""
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
    """When a call has waited long enough."""

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self.answered = False
        self.start()

    def start(self) -> None:
        self._began = time.monotonic()

    def wait(self, events: queue.SimpleQueue[object], stopped: bool) -> object | None:
        """The next event; None: the time is over.  It stands still while stopped, and before an answer."""
        if self._timeout_s is None or stopped or not self.answered:
            return events.get()
        try:
            return events.get(timeout=max(0.0, self._began + self._timeout_s - time.monotonic()))
        except queue.Empty:
            return None


class _Restarts:
    """Servers being started anew, each on a thread; leaving the context early ends what is not up yet.

    A server that nobody gave the current weights must not be found running by the next call.
    """

    def __init__(self, events: queue.SimpleQueue[object]) -> None:
        self._events = events
        self.running: dict[RolloutServer, threading.Thread] = {}

    def __enter__(self) -> _Restarts:
        return self

    def begin(self, server: RolloutServer) -> None:
        """Start it anew; the queue of events then gets `_Up`, or why it did not start."""

        def work() -> None:
            try:
                server.restart()
                self._events.put(_Up(server))
            except BaseException as error:
                self._events.put(error)

        self.running[server] = threading.Thread(target=work, name="rollout-restart", daemon=True)
        self.running[server].start()

    def end(self, server: RolloutServer, resync: Callable[[Sequence[RolloutServer]], None] | None) -> None:
        """It runs: bring it up to date."""
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

# SPDX-License-Identifier: Apache-2.0
"""A trainer's rollouts and refits: the first rank talks to the servers and broadcasts their answers.

A push restarts servers that are lost during it; `rollout.rollouts` those that are lost during rollouts.
"""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from reasongrm_nemo.data import JsonlAppender
from reasongrm_nemo.data.base_record import Record
from reasongrm_nemo.errors import StageFailed, UserError
from reasongrm_nemo.files.lines import MAX_OWN_LINE, read_dicts
from reasongrm_nemo.files.shapes import shaped
from reasongrm_nemo.files.writes import write_text
from reasongrm_nemo.rollout import (
    Completion,
    Prompt,
    Rollouts,
    RolloutServer,
    RolloutServerLost,
    Sampling,
    WeightSender,
)
from reasongrm_nemo.rollout.job_thread import Worker
from reasongrm_nemo.rollout.weights.transports import transport

Completions = list[list[Completion]]
_ANSWER = {"prompt_id": str, "completions": [dict]}
_PUSH, _DONE, _LOST = "push", "done", "lost"
# Gloo requires a timeout, but rollouts have no bound; a dead rank is detected by its closed connections.
_LONGER_THAN_ANY_ROLLOUT = timedelta(days=30)


class RolloutsLost(StageFailed):
    """A rollout server was lost twice in one step; the trainer saves and stops."""


class _Answer(Record, frozen=True):
    """One prompt's completions, as kept on disk."""

    prompt_id: str
    completions: list[dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """One batch of prompts that a step sends to its servers.

    Attributes:
        step: step that the rollouts belong to.
        name: 0, the number of a refill, or a word; ``step`` and ``name`` name the file with the answers.
        prompts: prompts with unique ids.
        sampling: sampling options of all prompts.
        timeout_s: seconds to wait for answers; prompts unanswered by then get none. None waits for all.
    """

    step: int
    name: int | str
    prompts: Sequence[Prompt]
    sampling: Sampling
    timeout_s: float | None = None


@dataclass
class _Resync:
    """Restarted servers that wait for weights."""

    servers: Sequence[RolloutServer]
    given: Future[None] = field(default_factory=Future)


class RolloutSource:
    """Rollouts and refits for a trainer of any number of ranks.

    Completions are saved under ``folder`` as they arrive; a step repeated after a kill requests only the
    missing ones and trains on the same data. Only the first rank talks to the servers, from a separate
    thread, which lets rollouts continue during training. The other ranks follow its commands, because
    pushing weights involves every rank that holds a part of them. Collective calls stay on the caller's
    thread and use a gloo group: the default group times out after half an hour, and waiting in NCCL keeps
    busy a GPU that a server may share.

    Args:
        rollouts: the servers and their client on the first rank, None on the others.
        transfer: exports the live model's weights.
        folder: folder for completions.
        weight_transfer: ``cluster.weight_transfer``.
    """

    def __init__(self, rollouts: Rollouts | None, transfer: Any, folder: Path, weight_transfer: str) -> None:
        self._rollouts = rollouts
        self._group = dist.new_group(backend="gloo", timeout=_LONGER_THAN_ANY_ROLLOUT)
        self._transport = transport(weight_transfer, self._group)
        self._sender = WeightSender(rollouts.servers, self._group) if rollouts else None
        self._transfer = transfer
        self._folder = folder
        self._version = self._counted = 0
        self._asks: dict[Path, Future[Completions]] = {}
        self._requests: queue.SimpleQueue[_Resync | None] = queue.SimpleQueue()
        self._worker = Worker("rollouts")
        if rollouts:
            rollouts.resync, rollouts.versions = self._resync, True
            folder.mkdir(exist_ok=True)

    def begin(self, part: Part) -> None:
        """Queue rollouts that ``collect`` will return; they start when those queued earlier are done."""
        rollouts, file = self._rollouts, self._file(part)
        if rollouts is None or file in self._asks:
            return
        ask = self._worker.submit(lambda: _kept(file) or _ask(rollouts, file, part))
        ask.add_done_callback(lambda _: self._requests.put(None))
        self._asks[file] = ask

    def collect(self, part: Part) -> Completions:
        """Wait for a part's completions; collective.

        Returns:
            One list of completions per prompt, in order; empty for prompts that timed out, never all empty.

        Raises:
            RolloutsLost: on every rank, if a server was lost and could not be restarted.
        """
        if self._rollouts is not None:
            self.begin(part)
            try:
                completions = self._wait_for(self._asks.pop(self._file(part)))
            except UserError as error:
                self._command(_LOST, str(error))
                raise RolloutsLost(str(error)) from error
            self._command(_DONE, completions)
            return completions
        while True:
            command, payload = self._command()
            if command == _PUSH:
                self._send()
            elif command == _LOST:
                raise RolloutsLost(payload)
            else:
                return payload

    def push(self, version: int) -> None:
        """Send the model's current weights to the servers; collective.

        Servers lost during the push are restarted and sent the weights; a second loss ends the run. If
        rollouts are in flight, their thread restarts the servers instead.

        Args:
            version: number of steps behind these weights; recorded with the completions they sample.
        """
        self._version, lost = version, None
        if self._rollouts is not None:
            met = {server: server.starts for server in self._rollouts.steady()}
            try:
                self._command(_PUSH, None)
                self._send(list(met))
            except RolloutServerLost as loss:
                try:
                    if any(not ask.done() for ask in self._asks.values()):
                        for server in loss.servers:
                            # kill a server with a mix of old and new weights, but not one that the
                            # rollouts' thread has already restarted (it has more starts)
                            server.kill(met[server])
                    else:
                        self._rollouts.tell(str(loss))
                        self._rollouts.bring_up(loss.servers)
                except UserError as error:
                    lost = str(error)
            self._command(_LOST if lost else _DONE, lost)
        else:
            while (command := self._command())[0] == _PUSH:
                self._send()
            if command[0] == _LOST:
                lost = command[1]
        if lost:
            raise RolloutsLost(lost)

    def losses(self) -> int:
        """Server losses and failed starts since the last call; 0 on all ranks but the first."""
        total = len(self._rollouts.losses) if self._rollouts is not None else 0
        fresh, self._counted = total - self._counted, total
        return fresh

    def _file(self, part: Part) -> Path:
        return self._folder / (f"step_{part.step:06d}" + (f"_{part.name}" if part.name else "") + ".jsonl")

    def sleep(self) -> None:
        """Put the servers to sleep until the next push, to free GPU memory for the trainer; collective.

        Returns once the servers sleep. A server that fails to sleep is treated as lost at the next push.
        """
        if self._rollouts is None:
            self._command()
            return
        with suppress(RolloutServerLost):
            self._rollouts.sleep()
        self._command(_DONE, None)

    def pause(self) -> None:
        """Tell the servers that no rollouts follow before the next push, to prepare for receiving it."""
        if self._sender is not None:
            self._sender.pause()

    def _wait_for(self, ask: Future[Completions]) -> Completions:
        """Wait for rollouts, and meanwhile send weights to servers that their thread has restarted."""
        while not ask.done():
            request = self._requests.get()
            if request is not None:
                try:
                    self._give(request.servers)
                    request.given.set_result(None)
                except BaseException as error:
                    request.given.set_exception(error)
        return ask.result()

    def _resync(self, servers: Sequence[RolloutServer]) -> None:
        if not self._worker.is_current():
            return self._give(servers)
        # a push involves every rank, and only the first rank's main thread commands the others
        request = _Resync(servers)
        self._requests.put(request)
        request.given.result()

    def _give(self, servers: Sequence[RolloutServer]) -> None:
        self._command(_PUSH, None)
        self._send(servers)

    def _send(self, servers: Sequence[RolloutServer] | None = None) -> None:
        """Export the weights on every rank that the transport needs; the first rank sends the tensors."""
        everywhere = self._transport.everywhere
        if parallel_state.get_data_parallel_rank() != 0 and not everywhere:
            return
        infos, tensors = self._transfer.infos(), self._transfer.export(everywhere)
        if self._sender is None:
            for _ in self._transport.parcels(infos, tensors):
                pass
            return
        # push() consumes all tensors even if servers are lost, because the other ranks are still exporting
        with _one_thread():
            self._sender.push(infos, tensors, self._version, servers)

    def _command(self, command: str = "", payload: Any = None) -> tuple[str, Any]:
        box = [(command, payload)]
        dist.broadcast_object_list(box, 0, group=self._group)
        if self._rollouts is None:
            self._transport.settle()  # a command from the first rank means that the previous push has ended
        return box[0]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit torch to one thread: its idle threads spin, and servers on the same cores are loading weights."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _ask(rollouts: Rollouts, file: Path, part: Part) -> Completions:
    aside = file.with_name(file.name + ".partial")
    with JsonlAppender(aside) as appender:
        rows = (shaped(row, _ANSWER, where) for where, row in read_dicts(aside, MAX_OWN_LINE))
        done = {row["prompt_id"]: row["completions"] for row in rows}
        missing = [prompt for prompt in part.prompts if prompt.id not in done]
        for answer in rollouts.stream(missing, part.sampling, timeout_s=part.timeout_s):
            kept = _Answer(answer[0].prompt_id, [asdict(completion) for completion in answer])
            appender.append([kept])
            done[kept.prompt_id] = kept.completions
    answers = [done.get(prompt.id, []) for prompt in part.prompts]
    write_text(file, "\n".join(json.dumps(row) for row in answers) + "\n")
    aside.unlink()
    return [_completions(row, str(file)) for row in answers]


def _kept(file: Path) -> Completions | None:
    if not file.exists():
        return None
    return [_completions(row, where) for where, row in read_dicts(file, MAX_OWN_LINE)]


def _completions(row: Any, where: str) -> list[Completion]:
    try:
        return [Completion(**fields) for fields in shaped(row, [dict], where)]
    except TypeError as error:
        raise UserError(
            f"{where}: not a completion ({error}); remove the file to sample these rollouts again"
        ) from None

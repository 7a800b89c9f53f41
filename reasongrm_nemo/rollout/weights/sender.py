# SPDX-License-Identifier: Apache-2.0
"""The trainer's side of vLLM's weight transfer: pushes new weights to running servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import torch

from reasongrm_nemo.models.tensor_info import TensorInfo
from reasongrm_nemo.rollout.server.server import RolloutServer, reset_prefix_cache
from reasongrm_nemo.rollout.types import RolloutServerLost
from reasongrm_nemo.rollout.weights.ipc import Group
from reasongrm_nemo.rollout.weights.transports import Connection, NamedTensors, Posts, Transport, transport

_PAUSE = "/pause?mode=keep"


class WeightSender:
    """Pushes weights to rollout servers with vLLM's weight-transfer protocol.

    Used on one trainer rank, in one thread.  Reconnects to servers that were restarted.

    Args:
        servers: servers to push to; may be started or restarted between pushes.
        group: see `transport`.

    Raises:
        UserError: the recipe's transport is not available here.
    """

    def __init__(self, servers: Sequence[RolloutServer], group: Group = None):
        self._transport = transport(servers[0].settings.weight_transfer, group)
        self._ends = {server: _End(server, self._transport) for server in servers}

    def pause(self) -> None:
        """Start pausing the servers for the next push (vLLM takes 20 ms), which then resumes them.

        Send no requests until then. A server that fails to pause is treated as lost by the push.
        """
        for end in self._ends.values():
            with suppress(RolloutServerLost):
                end.pause()

    def push(
        self,
        metadata: Sequence[TensorInfo],
        named_tensors: NamedTensors,
        version: int,
        servers: Sequence[RolloutServer] | None = None,
    ) -> None:
        """Replace the servers' weights.  Requests in flight pause and continue with the new weights.

        Args:
            metadata: infos of all tensors, in order.
            named_tensors: (Hugging Face name, whole tensor), taken one at a time.  Consumed to the end even
                if servers are lost, to keep ranks that gather the tensors collectively in step.
            version: version for the servers' /weight_info to report.
            servers: servers to push to; None: all.

        Raises:
            RolloutServerLost: the exception's `servers` must be restarted before further use; all others have
                the new weights.
            ValueError: the tensors do not match `metadata`.
        """
        parcels = self._transport.parcels(metadata, _checked(metadata, named_tensors))
        ends = [self._ends[server] for server in (self._ends if servers is None else servers)]
        lost: dict[RolloutServer, RolloutServerLost] = {}

        def at_all(work: Callable[[_End], None]) -> None:
            for end in ends:
                if end.server not in lost:
                    try:
                        work(end)
                    except RolloutServerLost as loss:
                        end.connection = None
                        lost[end.server] = loss

        try:
            at_all(lambda end: end.begin(metadata))
            for parcel in parcels:
                at_all(lambda end, parcel=parcel: end.open_connection.send(parcel))  # type: ignore[misc]
                at_all(lambda end, parcel=parcel: end.open_connection.settle(parcel))  # type: ignore[misc]
            at_all(lambda end: end.finish(version))
        except BaseException:
            for end in ends:
                end.connection = None
            raise
        finally:
            for _ in parcels:
                pass
            self._transport.settle()
        if lost:
            raise RolloutServerLost(" ".join(str(loss) for loss in lost.values()), list(lost))


class _End:
    """The requests to one server before and after a push's tensors."""

    def __init__(self, server: RolloutServer, transport: Transport) -> None:
        self.server = server
        self._posts = Posts(server)
        self._transport = transport
        self._starts = -1
        self.connection: Connection | None = None
        self._pausing: tuple[int, Future[Any]] | None = None

    @property
    def open_connection(self) -> Connection:
        assert self.connection is not None
        return self.connection

    def pause(self) -> None:
        self._pausing = self.server.starts, self._posts.aside(_PAUSE, {}, self._posts.timeout_s)

    def begin(self, metadata: Sequence[TensorInfo]) -> None:
        starts = self.server.starts
        if self.connection is None or self._starts != starts:
            self.connection, self._starts = self._transport.open(self._posts), starts
        self.server.wake("weights")
        self.server.forget_weights()
        self._await_pause(starts)
        self._posts.post("/start_weight_update")
        self.connection.begin(metadata)

    def _await_pause(self, starts: int) -> None:
        begun, self._pausing = self._pausing, None
        if begun is not None and begun[0] == starts:
            self._posts.answer(begun[1], _PAUSE)
        else:
            self._posts.post(_PAUSE)

    def finish(self, version: int) -> None:
        self.open_connection.end()
        self._posts.post("/finish_weight_update", {"weight_version": str(version)})
        self.server.wake("kv_cache")
        reset_prefix_cache(self.server)
        self._posts.post("/resume")


def _checked(
    metadata: Sequence[TensorInfo], named_tensors: NamedTensors
) -> Iterator[tuple[str, torch.Tensor]]:
    expected = iter(metadata)
    for name, tensor in named_tensors:
        meta = next(expected, None)
        if meta != TensorInfo.of(name, tensor):
            raise ValueError(f"got tensor {name} {tensor.dtype} {tuple(tensor.shape)}, expected {meta}")
        yield name, tensor
    missing = next(expected, None)
    if missing is not None:
        raise ValueError(f"no tensor for {missing.name}")

# SPDX-License-Identifier: Apache-2.0
"""The trainer's side of vLLM's weight transfer: push new weights into a running server."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import torch

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.rollout.gloo import Group, open_store
from reasongrm_nemo.rollout.http import call, reason
from reasongrm_nemo.rollout.server import RolloutServer, reset_prefix_cache
from reasongrm_nemo.rollout.types import RolloutServerLost
from reasongrm_nemo.tensors import TensorInfo

NamedTensors = Iterable[tuple[str, torch.Tensor]]


class GlooChannel:
    """Tensors through a gloo group on this machine's loopback; for CPU workers.

    Args:
        workers: how many vLLM workers receive.
        timeout_s: longest wait for them.
    """

    def __init__(self, workers: int, timeout_s: float):
        self._world, self._timeout_s = workers + 1, timeout_s
        self._store = open_store(self._world, timeout_s, master=True)
        self._group: Group | None = None

    def init_info(self) -> dict[str, Any]:
        """For the workers' engine (`vllm_plugin`)."""
        return {"master_port": self._store.port, "world_size": self._world, "timeout_s": self._timeout_s}

    def join(self) -> None:
        """Meet the workers; they must have been given `init_info` by now, on another thread."""
        self._group = Group(self._store, 0, self._world, self._timeout_s)

    def send(self, tensor: torch.Tensor) -> None:
        """Broadcast one tensor; returns when the buffer may be used again."""
        assert self._group is not None
        self._group.broadcast(tensor.detach().to("cpu").contiguous())


CHANNELS: dict[str, Callable[[int, float], Any] | None] = {"gloo": GlooChannel, "nccl": None, "ipc": None}
"""How tensors travel, by `cluster.weight_transfer`: a channel has `init_info`, `join` and `send`.

None: vLLM's side exists, ours does not yet.
"""


class WeightSender:
    """Pushes weights into a rollout server, by vLLM's weight-transfer protocol.

    Used on one trainer rank, in one thread.  It meets the server anew after each start of it.

    Args:
        server: whose weights to replace; may be started or restarted by anybody between pushes.
        keep_copy: keep the last pushed tensors in this process's memory, for `resend`.

    Raises:
        UserError: tensors cannot travel as the recipe says.
    """

    def __init__(self, server: RolloutServer, keep_copy: bool = False):
        self._server = server
        self._timeout_s = float(server.settings.stall_timeout_s)
        how = server.settings.weight_transfer
        channel = CHANNELS[how]
        if channel is None:
            raise UserError(
                f"cluster.weight_transfer {how} needs the GPU platform's channel, which this version does "
                "not have; set it to gloo, with cluster.platform cpu."
            )
        self._open = channel
        self._channel: Any = None
        self._starts = -1
        self._keep_copy = keep_copy
        self._copy: tuple[list[TensorInfo], list[tuple[str, torch.Tensor]], int] | None = None

    def push(self, metadata: Sequence[TensorInfo], named_tensors: NamedTensors, version: int) -> None:
        """Replace the server's weights.  Requests in flight pause and go on with the new ones.

        Args:
            metadata: of every tensor, in the order in which they come.
            named_tensors: (Hugging Face name, whole tensor), taken one at a time.  It is used up even when
                the server is lost on the way, so that ranks which gather the tensors together stay together.
            version: reported by the server's /weight_info.

        Raises:
            RolloutServerLost: the server must be restarted before it is used again.
            ValueError: the tensors are not those of `metadata`.
        """
        kept: list[tuple[str, torch.Tensor]] = []
        tensors = _checked(metadata, named_tensors, kept if self._keep_copy else None)
        try:
            self._push(metadata, tensors, version)
        finally:
            for _ in tensors:
                pass
        if self._keep_copy:
            self._copy = (list(metadata), kept, version)

    def resend(self) -> None:
        """Push the copy of the last pushed weights again, to a server that was restarted.

        Raises:
            RolloutServerLost: as `push`.
            RuntimeError: nothing was pushed yet, or no copy is kept.
        """
        if self._copy is None:
            raise RuntimeError("resend() needs keep_copy=True and an earlier push")
        metadata, tensors, version = self._copy
        self._push(metadata, iter(tensors), version)

    def _push(
        self, metadata: Sequence[TensorInfo], tensors: Iterator[tuple[str, torch.Tensor]], version: int
    ) -> None:
        try:
            self._meet()
            self._server.forget_weights()
            self._post("/pause?mode=keep")
            self._post("/start_weight_update")
            info = {
                "names": [m.name for m in metadata],
                "dtype_names": [str(m.dtype).removeprefix("torch.") for m in metadata],
                "shapes": [list(m.shape) for m in metadata],
            }
            # The server answers when it has loaded the last tensor.
            update = self._aside("/update_weights", {"update_info": info}, None)
            self._send(tensors, update)
            self._answer(update, "/update_weights")
            self._post("/finish_weight_update", {"weight_version": str(version)})
            reset_prefix_cache(self._server)
            self._post("/resume")
        except BaseException:
            self._channel = None
            raise

    def _meet(self) -> None:
        """Open the channel, once for each start of the server."""
        starts = self._server.starts
        if self._channel is not None and self._starts == starts:
            return
        answer = call(self._server.url, self._server.token, "GET", "/get_world_size", self._timeout_s)
        channel = self._open(int(answer["world_size"]), self._timeout_s)
        path = "/init_weight_transfer_engine"
        meeting = self._aside(path, {"init_info": channel.init_info()}, self._timeout_s)
        try:
            channel.join()
        except RuntimeError as error:
            raise self._lost(meeting, error) from error
        self._answer(meeting, path)
        self._channel, self._starts = channel, starts

    def _send(self, tensors: Iterator[tuple[str, torch.Tensor]], update: Future[Any]) -> None:
        for name, tensor in tensors:
            if update.done():  # refused: nobody receives
                self._answer(update, "/update_weights")
            try:
                self._channel.send(tensor)
            except RuntimeError as error:
                raise self._lost(update, error, name) from error

    def _lost(self, other: Future[Any], error: BaseException, name: str = "") -> RolloutServerLost:
        """The server's own words where it gives any, else ours."""
        with contextlib.suppress(Exception):
            cause = other.exception(timeout=2.0)
            if isinstance(cause, RolloutServerLost):
                return cause
        what = f"while it was sent {name}" if name else "before it was sent weights"
        return RolloutServerLost(f"The rollout server was lost {what}: {reason(error)}.")

    def _post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return call(self._server.url, self._server.token, "POST", path, self._timeout_s, body)

    def _aside(self, path: str, body: dict[str, Any], timeout_s: float | None) -> Future[Any]:
        """The same on a thread, which a server that never answers must not keep this process alive with."""
        url, token = self._server.url, self._server.token
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(call(url, token, "POST", path, timeout_s, body))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name="weights", daemon=True).start()
        return future

    def _answer(self, future: Future[Any], path: str) -> Any:
        try:
            return future.result(timeout=self._timeout_s)
        except TimeoutError:
            raise RolloutServerLost(
                f"The rollout server did not answer {path} within {self._timeout_s:g} s."
            ) from None


def _checked(
    metadata: Sequence[TensorInfo], named_tensors: NamedTensors, kept: list[tuple[str, torch.Tensor]] | None
) -> Iterator[tuple[str, torch.Tensor]]:
    expected = iter(metadata)
    for name, tensor in named_tensors:
        meta = next(expected, None)
        if meta != TensorInfo.of(name, tensor):
            raise ValueError(
                f"tensor {name} {tensor.dtype} {tuple(tensor.shape)} comes where {meta} was announced"
            )
        if kept is not None:
            kept.append((name, tensor.detach().to("cpu", copy=True)))
        yield name, tensor
    missing = next(expected, None)
    if missing is not None:
        raise ValueError(f"the tensors ended before {missing.name}")

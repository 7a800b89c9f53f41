# SPDX-License-Identifier: Apache-2.0
"""Transports of tensors to a server's workers, chosen by `cluster.weight_transfer`."""

from __future__ import annotations

import contextlib
import threading
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import torch

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models.tensor_info import TensorInfo
from reasongrm_nemo.processes import meeting
from reasongrm_nemo.processes.placement import address_towards
from reasongrm_nemo.rollout.http import call, reason
from reasongrm_nemo.rollout.server.server import RolloutServer
from reasongrm_nemo.rollout.server.settings import HOST
from reasongrm_nemo.rollout.types import RolloutServerLost
from reasongrm_nemo.rollout.weights import ipc
from reasongrm_nemo.rollout.weights.broadcast_group import BroadcastGroup, Flight, nccl_version, tensors_ahead

NamedTensors = Iterable[tuple[str, torch.Tensor]]


class Posts:
    """Requests of a push to one server, some of them in the background."""

    def __init__(self, server: RolloutServer) -> None:
        self.server = server
        self.timeout_s = float(server.settings.stall_timeout_s)

    def get(self, path: str) -> Any:
        """Send a GET request and return the parsed answer."""
        return call(self.server.url, self.server.token, "GET", path, self.timeout_s)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send a POST request and return the parsed answer."""
        return call(self.server.url, self.server.token, "POST", path, self.timeout_s, body)

    def aside(self, path: str, body: dict[str, Any], timeout_s: float | None) -> Future[Any]:
        """Send a POST request on a daemon thread, so a server that never answers cannot block exit."""
        url, token = self.server.url, self.server.token
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(call(url, token, "POST", path, timeout_s, body))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name="weights", daemon=True).start()
        return future

    def answer(self, future: Future[Any], path: str) -> Any:
        """Wait for the answer to a request of `aside`."""
        try:
            return future.result(timeout=self.timeout_s)
        except TimeoutError:
            raise RolloutServerLost(
                f"The rollout server did not answer {path} within {self.timeout_s:g} s."
            ) from None

    def lost(self, other: Future[Any], error: BaseException, name: str = "") -> RolloutServerLost:
        """The loss to raise: the one seen by request `other`, if any, or else one made from `error`."""
        with contextlib.suppress(Exception):
            cause = other.exception(timeout=2.0)
            if isinstance(cause, RolloutServerLost):
                return cause
        moment = f"while receiving {name}" if name else "before receiving weights"
        return RolloutServerLost(f"The rollout server was lost {moment}: {reason(error)}.")


class Connection(Protocol):
    """A transport's connection to one server, valid for one start of the server.

    Every method may raise `RolloutServerLost`.
    """

    def begin(self, metadata: Sequence[TensorInfo]) -> None:
        """Prepare for sending, after the server has started an update."""

    def send(self, parcel: Any) -> None:
        """Start sending a parcel; the same parcel may be sent to several servers at once."""

    def settle(self, parcel: Any) -> None:
        """After this returns, the caller may free the parcel."""

    def end(self) -> None:
        """Wait until the server has loaded all parcels."""


class Transport(Protocol):
    """A way to send tensors to servers.

    Attributes:
        everywhere: True if every trainer rank takes part with whole tensors; False if only the ranks of the
            first replica do, of which the first rank sends.
    """

    everywhere: bool

    def parcels(self, metadata: Sequence[TensorInfo], named_tensors: NamedTensors) -> Iterator[Any]:
        """Yield parcels to send one at a time; all participating ranks must exhaust it, only one sends."""

    def open(self, posts: Posts) -> Connection:
        """Connect to a running server."""

    def settle(self) -> None:
        """Free what `parcels` held; call on each rank when a push has ended on all ranks."""


class BroadcastTransport:
    """Broadcasts each tensor, in one group per server (`broadcast_group.BroadcastGroup`).

    A few tensors at a time are in flight (`broadcast_group.tensors_ahead`), to all servers at once.

    Raises:
        UserError: NCCL is requested, but torch has no GPU.
    """

    everywhere = False

    def __init__(self, backend: str) -> None:
        if backend == "nccl":
            _need_cuda("nccl")
        self._backend = backend

    def parcels(self, metadata: Sequence[TensorInfo], named_tensors: NamedTensors) -> Iterator[Any]:
        """Yield (name, contiguous tensor on the backend's device)."""
        device = "cuda" if self._backend == "nccl" else "cpu"
        for name, tensor in named_tensors:
            yield name, tensor.detach().to(device).contiguous()

    def open(self, posts: Posts) -> Connection:
        """Create a group with a server's workers."""
        return _BroadcastConnection(self._backend, posts)

    def settle(self) -> None:
        """Nothing to free."""


class _BroadcastConnection:
    def __init__(self, backend: str, posts: Posts) -> None:
        self._posts = posts
        world = 1 + int(posts.get("/get_world_size")["world_size"])
        address = address_towards(urllib.parse.urlsplit(posts.server.url).hostname or "")
        store, where = self._meeting_place(address, world)
        info = {
            **where,
            "master_host": address,
            "world_size": world,
            "timeout_s": posts.timeout_s,
            "nccl": nccl_version(),
        }
        path = "/init_weight_transfer_engine"
        joining = posts.aside(path, {"init_info": info}, posts.timeout_s)
        try:
            self._group = BroadcastGroup(backend, store, address, 0, world, posts.timeout_s)
        except RuntimeError as error:
            raise posts.lost(joining, error) from error
        self._ahead = tensors_ahead(backend)
        posts.answer(joining, path)

    def _meeting_place(self, address: str, world: int) -> tuple[Any, dict[str, Any]]:
        """The group's store, and the information that workers need to find it."""
        if address == HOST:
            self._file = meeting.PrivateFile()
            store = meeting.in_file(self._file.path, world, self._posts.timeout_s)
            return store, {"file": str(self._file.path), "master_port": 0}
        store = meeting.listen(address, 0, world, self._posts.timeout_s)
        return store, {"file": None, "master_port": store.port}

    def begin(self, metadata: Sequence[TensorInfo]) -> None:
        info = {
            "names": [m.name for m in metadata],
            "dtype_names": [str(m.dtype).removeprefix("torch.") for m in metadata],
            "shapes": [list(m.shape) for m in metadata],
        }
        # The server answers once the last tensor is loaded.
        self._update = self._posts.aside("/update_weights", {"update_info": info}, None)
        self._flight = Flight(self._group, self._ahead)

    def send(self, parcel: tuple[str, torch.Tensor]) -> None:
        if self._update.done():  # the server refused the update and receives nothing
            self._posts.answer(self._update, "/update_weights")
        with self._guarded(parcel[0]):
            self._flight.begin(*parcel)

    def settle(self, parcel: tuple[str, torch.Tensor]) -> None:
        self._land()

    def end(self) -> None:
        self._land(all_of_them=True)
        self._posts.answer(self._update, "/update_weights")

    def _land(self, all_of_them: bool = False) -> None:
        with self._guarded():
            for _ in self._flight.land(all_of_them):
                pass

    @contextlib.contextmanager
    def _guarded(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise self._posts.lost(self._update, error, name or self._flight.oldest) from error


class IpcTransport:
    """Sends buckets through memory that trainer and workers share on each GPU (`ipc`).

    Raises:
        UserError: torch has no GPU.
    """

    everywhere = True

    def __init__(self, group: ipc.Group = None) -> None:
        _need_cuda("ipc")
        from torch.multiprocessing.reductions import reduce_tensor

        self._group = group
        self._exports = ipc.Exports(reduce_tensor, torch.UntypedStorage._release_ipc_counter)

    def parcels(self, metadata: Sequence[TensorInfo], named_tensors: NamedTensors) -> Iterator[ipc.Bucket]:
        """Yield buckets with the handles of all ranks' buffers."""
        self._exports.let_go()
        torch.cuda.ipc_collect()
        index = torch.cuda.current_device()
        uuid = str(torch.cuda.get_device_properties(index).uuid)
        device = torch.device("cuda", index)
        yield from ipc.buckets(metadata, named_tensors, device, uuid, self._exports, group=self._group)
        torch.cuda.empty_cache()  # a server that slept now takes its memory for keys and values
        ipc.meet(device, self._group)

    def open(self, posts: Posts) -> Connection:
        """Initialize the workers' transfer engine."""
        return IpcConnection(posts)

    def settle(self) -> None:
        """Free the buffer if its worker has released it."""
        self._exports.settle()
        torch.cuda.ipc_collect()


class IpcConnection:
    """Announces buckets by HTTP; the server answers once a bucket is copied."""

    def __init__(self, posts: Posts) -> None:
        self._posts = posts
        posts.post("/init_weight_transfer_engine", {"init_info": {}})

    def begin(self, metadata: Sequence[TensorInfo]) -> None:
        """Nothing to do: each bucket is a separate update."""

    def send(self, parcel: ipc.Bucket) -> None:
        """Announce a bucket."""
        body = {"update_info": parcel.update_info()}
        self._update = self._posts.aside("/update_weights", body, None)

    def settle(self, parcel: ipc.Bucket) -> None:
        """Wait until the bucket is copied."""
        self._posts.answer(self._update, "/update_weights")

    def end(self) -> None:
        """Nothing to do: all buckets are copied."""


def _need_cuda(how: str) -> None:
    if not torch.cuda.is_available():
        raise UserError(
            f"cluster.weight_transfer is {how}, but torch finds no GPU in the trainer's environment; "
            "set cluster.weight_transfer to gloo and cluster.platform to cpu."
        )


def transport(how: str, group: ipc.Group = None) -> Transport:
    """The transport that `cluster.weight_transfer` names.

    Args:
        how: `cluster.weight_transfer`.
        group: a gloo group of the trainer's ranks; None: torch's default group, if any.

    Raises:
        UserError: the transport needs a GPU, and there is none.
    """
    return IpcTransport(group) if how == "ipc" else BroadcastTransport(how)

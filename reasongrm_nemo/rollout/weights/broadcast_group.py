# SPDX-License-Identifier: Apache-2.0
"""The gloo or NCCL group of the trainer (rank 0) and a server's workers; both sides use this module."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from reasongrm_nemo.processes.placement import address_towards
from reasongrm_nemo.rollout.server.versions import other_nccl


def nccl_version() -> list[int]:
    """Version of the NCCL used by this process's torch; empty without a GPU."""
    return list(torch.cuda.nccl.version()) if torch.cuda.is_available() else []


def check_nccl(trainers: Sequence[int], servers: Sequence[int]) -> None:
    """Check that both ends of a group have the same NCCL version.

    Raises:
        RuntimeError: versions differ, for which NCCL itself only reports "invalid usage" (init.cc,
            "Mismatched NCCL version detected").
    """
    if list(trainers) != list(servers):
        theirs, ours = (".".join(map(str, version)) or "none" for version in (trainers, servers))
        raise RuntimeError(other_nccl(theirs, ours))


class BroadcastGroup:
    """Group of sender and receivers, separate from torch's default group.  Blocks until all have joined.

    Args:
        backend: `gloo` for CPU tensors, `nccl` for tensors on the current GPU.
        store: rendezvous store (see `meeting`).
        host: an address of the sender's machine, used to choose this machine's network interface.
        rank: 0 is the sender.
        world_size: number of ranks, including the sender.
        timeout_s: longest wait for another rank, here and in each broadcast.

    Raises:
        RuntimeError: a rank did not join in time.
    """

    def __init__(
        self, backend: str, store: dist.Store, host: str, rank: int, world_size: int, timeout_s: float
    ):
        self._store = store  # the one that listens must live as long as the group
        self._timeout = timedelta(seconds=timeout_s)
        make = _gloo if backend == "gloo" else _nccl
        self._group = make(dist.PrefixStore("weights", store), host, rank, world_size, self._timeout)

    def broadcast(self, tensor: torch.Tensor) -> Any:
        """Start to send (rank 0) or receive into (other ranks) a contiguous tensor of any dtype, as bytes.

        Returns:
            A handle for `wait`.

        Raises:
            RuntimeError: the peer is gone.
        """
        return self._group.broadcast(tensor.view(-1).view(torch.uint8), 0) if tensor.numel() else None

    def wait(self, work: Any) -> None:
        """Wait until a broadcast is done and its tensor may be used.

        Raises:
            RuntimeError: the peer is gone, or too slow.
        """
        if work is not None:
            work.wait(self._timeout)


class Flight:
    """A queue of broadcasts in flight, of bounded length to bound memory.

    Args:
        group: group to broadcast in.
        ahead: maximum number of broadcasts in flight after `land`.
    """

    def __init__(self, group: BroadcastGroup, ahead: int) -> None:
        self._group, self._ahead = group, ahead
        self._flying: deque[tuple[str, torch.Tensor, Any]] = deque()

    def begin(self, name: str, tensor: torch.Tensor) -> None:
        """Start the broadcast of `tensor`, which must not change until `land` returns it."""
        self._flying.append((name, tensor, self._group.broadcast(tensor)))

    def land(self, all_of_them: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
        """Wait for the oldest broadcasts until at most `ahead` (or none) remain, and yield their tensors.

        Raises:
            RuntimeError: the peer is gone, or too slow; `oldest` names the tensor.
        """
        while len(self._flying) > (0 if all_of_them else self._ahead):
            self._group.wait(self._flying[0][2])
            name, tensor, _ = self._flying.popleft()
            yield name, tensor

    @property
    def oldest(self) -> str:
        """Name of the oldest tensor in flight, or an empty string."""
        return self._flying[0][0] if self._flying else ""


def tensors_ahead(backend: str) -> int:
    """Number of tensors that may be in flight while others are loaded.

    Gloo's threads transfer tensors while others load.  NCCL transfers one at a time, because its kernels
    would otherwise run concurrently with the trainer's collectives in undefined order.
    """
    return 4 if backend == "gloo" else 0


def _gloo(store: Any, host: str, rank: int, world_size: int, timeout: timedelta) -> Any:
    options = dist.ProcessGroupGloo._Options()
    # By default, gloo binds to the interface that the host name resolves to.
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=address_towards(host))]
    options._timeout = timeout
    return dist.ProcessGroupGloo(store, rank, world_size, options)


def _nccl(store: Any, host: str, rank: int, world_size: int, timeout: timedelta) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    # NCCL reads this variable when creating a group: waits then block and raise.  By default, the watchdog
    # ends the process when a peer dies, but the trainer must outlive a server.
    with _environment("TORCH_NCCL_BLOCKING_WAIT", "1"):
        return dist.ProcessGroupNCCL(store, rank, world_size, options)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before

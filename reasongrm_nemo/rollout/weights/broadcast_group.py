# SPDX-License-Identifier: Apache-2.0
"""The group between the trainer (rank 0) and a server's workers, by gloo or NCCL: the same on both sides."""

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
    """Of the NCCL that this process's torch runs with; empty without a GPU."""
    return list(torch.cuda.nccl.version()) if torch.cuda.is_available() else []


def check_nccl(trainers: Sequence[int], servers: Sequence[int]) -> None:
    """Of both ends of a group.

    Raises:
        RuntimeError: they differ. NCCL itself only says "invalid usage" then (init.cc, "Mismatched NCCL
            version detected").
    """
    if list(trainers) != list(servers):
        theirs, ours = (".".join(map(str, version)) or "none" for version in (trainers, servers))
        raise RuntimeError(other_nccl(theirs, ours))


class BroadcastGroup:
    """Sender and receivers, apart from torch's default group.  Blocks until all have joined.

    Args:
        backend: `gloo` for CPU tensors, `nccl` for those of the current GPU.
        store: where they meet (see `meeting`).
        host: an address of the sender's machine, which says by which of ours the peers are reached.
        rank: 0 sends.
        world_size: sender and receivers.
        timeout_s: longest wait for another rank, here and in each broadcast.

    Raises:
        RuntimeError: somebody did not come in time.
    """

    def __init__(
        self, backend: str, store: dist.Store, host: str, rank: int, world_size: int, timeout_s: float
    ):
        self._store = store  # the one that listens must live as long as the group
        self._timeout = timedelta(seconds=timeout_s)
        make = _gloo if backend == "gloo" else _nccl
        self._group = make(dist.PrefixStore("weights", store), host, rank, world_size, self._timeout)

    def broadcast(self, tensor: torch.Tensor) -> Any:
        """Begin to send (rank 0) or fill (other ranks) a contiguous tensor of any dtype, as bytes.

        Returns:
            What `wait` takes.

        Raises:
            RuntimeError: the peer is gone.
        """
        return self._group.broadcast(tensor.view(-1).view(torch.uint8), 0) if tensor.numel() else None

    def wait(self, work: Any) -> None:
        """Until a broadcast is done and its tensor may be used.

        Raises:
            RuntimeError: the peer is gone, or too slow.
        """
        if work is not None:
            work.wait(self._timeout)


class Flight:
    """Broadcasts that were begun and not waited for, the oldest first; bounds what they hold in memory.

    Args:
        group: through which they go.
        ahead: how many may be under way beyond the one that is waited for.
    """

    def __init__(self, group: BroadcastGroup, ahead: int) -> None:
        self._group, self._ahead = group, ahead
        self._flying: deque[tuple[str, torch.Tensor, Any]] = deque()

    def begin(self, name: str, tensor: torch.Tensor) -> None:
        """Begin the broadcast of `tensor`, which must not change until it has landed."""
        self._flying.append((name, tensor, self._group.broadcast(tensor)))

    def land(self, all_of_them: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
        """Wait for those that are too many to leave under way, and give them.

        Raises:
            RuntimeError: the peer is gone, or too slow; `oldest` names the tensor.
        """
        while len(self._flying) > (0 if all_of_them else self._ahead):
            self._group.wait(self._flying[0][2])
            name, tensor, _ = self._flying.popleft()
            yield name, tensor

    @property
    def oldest(self) -> str:
        """The name of the tensor that has waited longest, or nothing."""
        return self._flying[0][0] if self._flying else ""


def tensors_ahead(backend: str) -> int:
    """How many tensors sender and receivers let be under way while others are loaded.

    Gloo's threads then work beside the loading.  NCCL gets one at a time: its kernels would run beside the
    trainer's own collectives, in an order that nothing fixes.
    """
    return 4 if backend == "gloo" else 0


def _gloo(store: Any, host: str, rank: int, world_size: int, timeout: timedelta) -> Any:
    options = dist.ProcessGroupGloo._Options()
    # By default gloo binds to the interface that the host's name resolves to.
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=address_towards(host))]
    options._timeout = timeout
    return dist.ProcessGroupGloo(store, rank, world_size, options)


def _nccl(store: Any, host: str, rank: int, world_size: int, timeout: timedelta) -> Any:
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    # Read when a group is made: waits then block and raise.  By default the watchdog ends the whole process
    # when a peer dies, and the trainer must outlive a server.
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

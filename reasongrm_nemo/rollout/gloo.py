# SPDX-License-Identifier: Apache-2.0
"""The gloo group between the trainer (rank 0) and vLLM's workers: the same few lines on both sides."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from reasongrm_nemo.rollout.settings import HOST


def open_store(world_size: int, timeout_s: float, port: int = 0, *, master: bool = False) -> Any:
    """The meeting place; the master chooses a free port with `port` 0 and tells it by `.port`."""
    return dist.TCPStore(
        HOST, port, world_size, is_master=master, timeout=timedelta(seconds=timeout_s), wait_for_workers=False
    )


class Group:
    """A gloo group over loopback, apart from torch's default group.  Blocks until all have joined.

    Args:
        store: from `open_store`.
        rank: 0 sends.
        world_size: sender and receivers.
        timeout_s: longest wait for another rank, here and in each broadcast.

    Raises:
        RuntimeError: somebody did not come in time.
    """

    def __init__(self, store: Any, rank: int, world_size: int, timeout_s: float):
        options = dist.ProcessGroupGloo._Options()
        # By default gloo binds to the interface that the host's name resolves to.
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=HOST)]
        options._timeout = timedelta(seconds=timeout_s)
        self._store = store  # the master's must live as long as the group
        self._group = dist.ProcessGroupGloo(dist.PrefixStore("weights", store), rank, world_size, options)

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Send (rank 0) or fill (other ranks) a contiguous CPU tensor of any dtype, as bytes.

        Raises:
            RuntimeError: the peer is gone, or too slow.
        """
        if tensor.numel():
            self._group.broadcast(tensor.view(-1).view(torch.uint8), 0).wait()

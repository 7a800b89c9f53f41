# SPDX-License-Identifier: Apache-2.0
"""The workers' side of `transports`: weight-transfer engines for vLLM 0.32, loaded only by its workers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from reasongrm_nemo.processes import meeting
from reasongrm_nemo.rollout.weights import ipc
from reasongrm_nemo.rollout.weights.broadcast_group import (
    BroadcastGroup,
    Flight,
    check_nccl,
    nccl_version,
    tensors_ahead,
)


class _Engine(WeightTransferEngine):  # type: ignore[misc]
    """Loads a checkpoint's whole tensors layer by layer as they arrive."""

    def start_weight_update(self) -> None:
        """Prepare for tensors in checkpoint format."""
        initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        """Finish loading after the last tensor."""
        finalize_layerwise_reload(self.model, self.model_config)


@dataclass
class GroupInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """Where to meet the trainer: a file on this machine, or the trainer's host and port."""

    file: str | None
    master_host: str
    master_port: int
    world_size: int
    timeout_s: float
    nccl: list[int]


@dataclass
class GroupUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """The tensors to be broadcast."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]


class _GroupEngine(_Engine):
    """Receives one broadcast per tensor from rank 0 (the trainer)."""

    init_info_cls = GroupInitInfo
    update_info_cls = GroupUpdateInfo
    backend: str
    group: BroadcastGroup | None = None

    def init_transfer_engine(self, init_info: GroupInitInfo) -> None:
        """Join the trainer's group."""
        parallel = self.parallel_config
        rank = 1 + parallel.rank + parallel.data_parallel_index * parallel.world_size
        host, world, timeout_s = init_info.master_host, init_info.world_size, init_info.timeout_s
        store = meeting.join(init_info.file, host, init_info.master_port, world, timeout_s)
        self.group = BroadcastGroup(self.backend, store, host, rank, world, timeout_s)

    def receive_weights(self, update_info: GroupUpdateInfo) -> None:
        """Receive and load the tensors of an update."""
        if self.group is None:
            raise RuntimeError("update_weights was called before init_weight_transfer_engine")
        self.model.load_weights(self._tensors(self.group, update_info))

    def _tensors(self, group: BroadcastGroup, info: GroupUpdateInfo) -> Iterator[tuple[str, torch.Tensor]]:
        device = self.device if self.backend == "nccl" else torch.device("cpu")
        flight = Flight(group, tensors_ahead(self.backend))
        for name, dtype, shape in zip(info.names, info.dtype_names, info.shapes, strict=True):
            flight.begin(name, torch.empty(shape, dtype=getattr(torch, dtype), device=device))
            yield from flight.land()
        yield from flight.land(all_of_them=True)

    def shutdown(self) -> None:
        """Leave the group."""
        self.group = None


class GlooEngine(_GroupEngine):
    """`cluster.weight_transfer: gloo`."""

    backend = "gloo"

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive and load one update."""
        # The base class would synchronize the accelerator afterwards, which raises on CPU.
        self.receive_weights(self.parse_update_info(update_info))


class NcclEngine(_GroupEngine):
    """`cluster.weight_transfer: nccl`."""

    backend = "nccl"

    def init_transfer_engine(self, init_info: GroupInitInfo) -> None:
        """Join the trainer's group if its NCCL version is the same."""
        check_nccl(init_info.nccl, nccl_version())
        super().init_transfer_engine(init_info)


@dataclass
class IpcInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """Empty: no initialization needed."""


@dataclass
class IpcUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """The fields of `ipc.Bucket.update_info`."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    starts: list[int]
    sizes: list[int]
    offsets: list[int]
    handles: dict[str, dict[str, Any]]


class IpcEngine(_Engine):
    """`cluster.weight_transfer: ipc`: copies tensors from the buffer of the trainer rank on this GPU."""

    init_info_cls = IpcInitInfo
    update_info_cls = IpcUpdateInfo
    buffer: torch.Tensor | None = None

    def init_transfer_engine(self, init_info: IpcInitInfo) -> None:
        """Nothing to do: every bucket carries its handles."""

    def receive_weights(self, update_info: IpcUpdateInfo) -> None:
        """Load the tensors of a bucket."""
        if self.buffer is None:  # import once per update, because the export's reference count is 1
            self.buffer, self._unpacking = self._import(update_info.handles), ipc.Unpacking()
        tensors = self._unpacking.tensors(self.buffer, vars(update_info))
        if (first := next(tensors, None)) is not None:  # else the bucket only has a piece of one
            self.model.load_weights(itertools.chain([first], tensors))

    def _import(self, handles: dict[str, dict[str, Any]]) -> torch.Tensor:
        from torch.multiprocessing.reductions import rebuild_cuda_tensor

        uuid = str(torch.cuda.get_device_properties(self.device.index).uuid)
        if uuid not in handles:
            raise ValueError(
                f"no trainer rank shares GPU {uuid} with this worker; ipc needs one on each of the "
                "server's GPUs (see rollout.gpus)"
            )
        return rebuild_cuda_tensor(*ipc.rebuild_arguments(handles[uuid], self.device.index))

    def start_weight_update(self) -> None:
        """Prepare for tensors in checkpoint format."""
        self.shutdown()  # release the buffer of an aborted update
        super().start_weight_update()

    def finish_weight_update(self) -> None:
        """Finish loading after the last tensor."""
        super().finish_weight_update()
        self.shutdown()

    def shutdown(self) -> None:
        """Release the shared buffer."""
        if self.buffer is not None:
            ipc.mark_let_go(self.buffer)
            self.buffer = None

# SPDX-License-Identifier: Apache-2.0
"""The workers' side of `transports`: weight-transfer engines, loaded by vLLM's workers only (vLLM 0.32)."""

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
    """A checkpoint's whole tensors, loaded layer by layer as they come."""

    def start_weight_update(self) -> None:
        """Make ready for tensors in checkpoint format."""
        initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        """Everything came."""
        finalize_layerwise_reload(self.model, self.model_config)


@dataclass
class GroupInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """Where the trainer waits: in a file on this machine, or at a port of its own."""

    file: str | None
    master_host: str
    master_port: int
    world_size: int
    timeout_s: float
    nccl: list[int]


@dataclass
class GroupUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """The tensors that will be broadcast."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]


class _GroupEngine(_Engine):
    """Receives one broadcast each from rank 0 (the trainer)."""

    init_info_cls = GroupInitInfo
    update_info_cls = GroupUpdateInfo
    backend: str
    group: BroadcastGroup | None = None

    def init_transfer_engine(self, init_info: GroupInitInfo) -> None:
        """Meet the trainer."""
        parallel = self.parallel_config
        rank = 1 + parallel.rank + parallel.data_parallel_index * parallel.world_size
        host, world, timeout_s = init_info.master_host, init_info.world_size, init_info.timeout_s
        store = meeting.join(init_info.file, host, init_info.master_port, world, timeout_s)
        self.group = BroadcastGroup(self.backend, store, host, rank, world, timeout_s)

    def receive_weights(self, update_info: GroupUpdateInfo) -> None:
        """Load what comes."""
        if self.group is None:
            raise RuntimeError("update_weights came before init_weight_transfer_engine")
        self.model.load_weights(self._tensors(self.group, update_info))

    def _tensors(self, group: BroadcastGroup, info: GroupUpdateInfo) -> Iterator[tuple[str, torch.Tensor]]:
        device = self.device if self.backend == "nccl" else torch.device("cpu")
        flight = Flight(group, tensors_ahead(self.backend))
        for name, dtype, shape in zip(info.names, info.dtype_names, info.shapes, strict=True):
            flight.begin(name, torch.empty(shape, dtype=getattr(torch, dtype), device=device))
            yield from flight.land()
        yield from flight.land(all_of_them=True)

    def shutdown(self) -> None:
        """Let go of what was shared."""
        self.group = None


class GlooEngine(_GroupEngine):
    """`cluster.weight_transfer: gloo`."""

    backend = "gloo"

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """One update."""
        # The base class then waits for an accelerator, which raises on a CPU.
        self.receive_weights(self.parse_update_info(update_info))


class NcclEngine(_GroupEngine):
    """`cluster.weight_transfer: nccl`."""

    backend = "nccl"

    def init_transfer_engine(self, init_info: GroupInitInfo) -> None:
        """Meet the trainer, if its NCCL is ours."""
        check_nccl(init_info.nccl, nccl_version())
        super().init_transfer_engine(init_info)


@dataclass
class IpcInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """Nothing to agree on."""


@dataclass
class IpcUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """An `ipc.Bucket`."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    starts: list[int]
    sizes: list[int]
    offsets: list[int]
    handles: dict[str, dict[str, Any]]


class IpcEngine(_Engine):
    """`cluster.weight_transfer: ipc`: copies tensors out of the buffer of the trainer's rank on this GPU."""

    init_info_cls = IpcInitInfo
    update_info_cls = IpcUpdateInfo
    buffer: torch.Tensor | None = None

    def init_transfer_engine(self, init_info: IpcInitInfo) -> None:
        """Nothing to prepare: a bucket says where it is."""

    def receive_weights(self, update_info: IpcUpdateInfo) -> None:
        """Load what comes."""
        if self.buffer is None:  # once an update: an export's reference count stands for one import
            self.buffer, self._unpacking = self._import(update_info.handles), ipc.Unpacking()
        tensors = self._unpacking.tensors(self.buffer, vars(update_info))
        if (first := next(tensors, None)) is not None:  # else the bucket holds but a piece of one
            self.model.load_weights(itertools.chain([first], tensors))

    def _import(self, handles: dict[str, dict[str, Any]]) -> torch.Tensor:
        from torch.multiprocessing.reductions import rebuild_cuda_tensor

        uuid = str(torch.cuda.get_device_properties(self.device.index).uuid)
        if uuid not in handles:
            raise ValueError(
                f"no trainer rank shares GPU {uuid} with this worker; ipc needs one on each of the server's "
                "GPUs (see rollout.gpus)"
            )
        return rebuild_cuda_tensor(*ipc.rebuild_arguments(handles[uuid], self.device.index))

    def start_weight_update(self) -> None:
        """Make ready for tensors in checkpoint format."""
        self.shutdown()  # of an update that was broken off
        super().start_weight_update()

    def finish_weight_update(self) -> None:
        """Everything came."""
        super().finish_weight_update()
        self.shutdown()

    def shutdown(self) -> None:
        """Let go of what was shared."""
        if self.buffer is not None:
            ipc.mark_let_go(self.buffer)
            self.buffer = None

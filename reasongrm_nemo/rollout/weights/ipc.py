# SPDX-License-Identifier: Apache-2.0
"""Transfers weights from a trainer rank to the vLLM worker on the same GPU through a shared buffer.

Uses CUDA interprocess handles: every rank fills its buffer with the same bucket of tensors, its worker copies
them out, and the buffer is reused for the next bucket.  vLLM's built-in engine `ipc` sends its handles over
HTTP as pickles, which requires its server to trust every pickle it receives
(VLLM_ALLOW_INSECURE_SERIALIZATION).  Here a handle consists of plain values in JSON; nothing is unpickled.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.distributed as dist

from reasongrm_nemo.models.push_memory import BUCKET_BYTES
from reasongrm_nemo.models.tensor_info import TensorInfo

_ALIGN = 256
_LET_GO = 1  # value of a buffer's last byte once its worker has released it

# Indices into the arguments of torch's `rebuild_cuda_tensor`, which `reduce_tensor` returns as (function,
# arguments).  The other arguments of a flat tensor of bytes follow from its size.
_BYTES_AT = {"handle": 7, "ref_counter_handle": 11, "event_handle": 13}
_PLAIN_AT = {"size": 8, "offset": 9, "ref_counter_offset": 12, "event_sync": 14}
_DEVICE_AT = 6
_COUNTER_AT, _COUNTER_PLACE_AT = _BYTES_AT["ref_counter_handle"], _PLAIN_AT["ref_counter_offset"]

Reduce = Callable[[torch.Tensor], tuple[Any, tuple[Any, ...]]]
Group: TypeAlias = "dist.ProcessGroup | None"


@dataclass(frozen=True)
class BufferPiece:
    """A range of a tensor's bytes in a shared buffer.

    Attributes:
        info: the tensor.
        start: byte offset of the piece in the tensor.
        nbytes: size of the piece in bytes.
        offset: byte offset of the piece in the buffer.
    """

    info: TensorInfo
    start: int
    nbytes: int
    offset: int


@dataclass(frozen=True)
class Bucket:
    """Tensors, or pieces of tensors, in the shared buffers.

    Attributes:
        pieces: the pieces in the buffers.
        handles: GPU UUID -> description of the buffer on that GPU (`describe_buffer`).
    """

    pieces: Sequence[BufferPiece]
    handles: dict[str, dict[str, Any]]

    def update_info(self) -> dict[str, Any]:
        """Description of the bucket for the workers' engine, in JSON types."""
        infos = [piece.info for piece in self.pieces]
        return {
            "names": [info.name for info in infos],
            "dtype_names": [str(info.dtype).removeprefix("torch.") for info in infos],
            "shapes": [list(info.shape) for info in infos],
            "starts": [piece.start for piece in self.pieces],
            "sizes": [piece.nbytes for piece in self.pieces],
            "offsets": [piece.offset for piece in self.pieces],
            "handles": self.handles,
        }


def plan_buckets(infos: Sequence[TensorInfo], limit: int) -> Iterator[list[BufferPiece]]:
    """Pack tensors in order into buckets of at most `limit` bytes; split larger tensors into pieces."""
    bucket: list[BufferPiece] = []
    end = 0
    for info in infos:
        start = 0
        while True:
            nbytes = min(info.nbytes - start, limit)
            if bucket and end + nbytes > limit:
                yield bucket
                bucket, end = [], 0
            bucket.append(BufferPiece(info, start, nbytes, end))
            end += -(-nbytes // _ALIGN) * _ALIGN
            start += nbytes
            if start >= info.nbytes:
                break
    if bucket:
        yield bucket


class Exports:
    """torch's `reduce_tensor`, for one buffer at a time.

    Torch gives an export a reference count of 1 and keeps the memory until an importer releases it. Buffers
    on GPUs of servers that get no push are never imported, and a killed worker never releases its import; in
    these cases this class releases the count. Releasing it twice would keep the memory forever, so workers
    mark the buffer when they release it (`mark_let_go`).

    Args:
        reduce: torch's `reduce_tensor`.
        release: torch's `UntypedStorage._release_ipc_counter`, which releases an import.
    """

    def __init__(self, reduce: Reduce, release: Callable[..., Any]) -> None:
        self._reduce, self._release = reduce, release
        self._last: tuple[torch.Tensor, Sequence[Any]] | None = None

    def __call__(self, buffer: torch.Tensor) -> tuple[Any, tuple[Any, ...]]:
        """Export a buffer created by `buckets`."""
        made = self._reduce(buffer)
        self._last = buffer, made[1]
        return made

    def settle(self) -> None:
        """Forget the last buffer if its worker has released it; call when a push has ended on all ranks."""
        if self._last is not None and int(self._last[0][-1]) == _LET_GO:
            self._last = None

    def let_go(self) -> None:
        """Release the last buffer on behalf of a worker that never imported it or was killed.

        Call before the next push: by then, servers lost in a push have been restarted. Memory must not be
        returned to CUDA while another process has it open.
        """
        self.settle()
        last, self._last = self._last, None
        if last is not None:
            counter, place, device = (last[1][i] for i in (_COUNTER_AT, _COUNTER_PLACE_AT, _DEVICE_AT))
            self._release(counter, place, device=device)


def mark_let_go(buffer: torch.Tensor) -> None:
    """Tell the process that exported a buffer that this process is releasing it."""
    buffer[-1] = _LET_GO
    int(buffer[-1])  # waits for the GPU


def buckets(
    infos: Sequence[TensorInfo],
    named_tensors: Iterable[tuple[str, torch.Tensor]],
    device: torch.device,
    uuid: str,
    reduce: Reduce,
    limit: int = BUCKET_BYTES,
    group: Group = None,
) -> Iterator[Bucket]:
    """Fill this rank's buffer bucket by bucket; collective.

    The sending rank requests the next bucket once the workers have copied the last one; other ranks iterate
    without waiting.

    Args:
        infos: infos of all tensors.
        named_tensors: names and whole tensors on every rank, in the order of `infos`.
        device: device of the buffer.
        uuid: UUID of the device.
        reduce: torch's `reduce_tensor`, or `Exports`.
        limit: maximum bytes of tensors in the buffer.
        group: gloo group of all ranks, which meet twice per bucket (500 times in a push of QwQ-32B): NCCL
            would keep GPUs busy that servers share. None: torch's default group, if any.
    """
    size = max(bucket[-1].offset + bucket[-1].nbytes for bucket in plan_buckets(infos, limit))
    buffer = torch.empty(size + 1, dtype=torch.uint8, device=device)
    buffer[-1] = 0  # see `mark_let_go`
    # Export once, because the reference count pairs one export with one import.
    handles = _gathered({uuid: describe_buffer(reduce(buffer)[1])}, group)
    tensors = iter(named_tensors)
    whole = torch.empty(0, dtype=torch.uint8)
    for bucket in plan_buckets(infos, limit):
        for piece in bucket:
            if piece.start == 0:
                whole = _bytes(next(tensors)[1])
            place = slice(piece.offset, piece.offset + piece.nbytes)
            buffer[place].copy_(whole[piece.start : piece.start + piece.nbytes])
        meet(device, group)  # every rank's buffer is full
        yield Bucket(bucket, handles)
        meet(device, group)  # every worker has read it
    for _ in tensors:  # lets the sender's check detect extra tensors
        pass


def describe_buffer(arguments: Sequence[Any]) -> dict[str, Any]:
    """The results of `reduce_tensor` that another process needs for a flat tensor of bytes, in JSON types."""
    described = {name: b64encode(arguments[i]).decode("ascii") for name, i in _BYTES_AT.items()}
    return described | {name: arguments[i] for name, i in _PLAIN_AT.items()}


def rebuild_arguments(described: dict[str, Any], device: int) -> tuple[Any, ...]:
    """Inverse of `describe_buffer`: arguments for `rebuild_cuda_tensor` on GPU `device` of this process.

    Raises:
        KeyError, TypeError, ValueError: invalid description.
    """
    size = int(described["size"])
    arguments: list[Any] = [torch.Tensor, (size,), (1,), 0, torch.UntypedStorage, torch.uint8, device]
    arguments += [None] * 8
    arguments[10] = False  # requires_grad
    for name, i in _BYTES_AT.items():
        arguments[i] = b64decode(described[name], validate=True)
    for name, i in _PLAIN_AT.items():
        arguments[i] = int(described[name])
    arguments[14] = bool(described["event_sync"])
    return tuple(arguments)


class Unpacking:
    """Copies tensors out of a buffer as buckets arrive, and joins tensors that were split."""

    def __init__(self) -> None:
        self._whole = torch.empty(0, dtype=torch.uint8)  # the tensor whose pieces are arriving

    def tensors(self, buffer: torch.Tensor, update: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors that a bucket completes; vLLM keeps them until their layer is complete.

        Args:
            buffer: bytes on the GPU.
            update: from `Bucket.update_info`.
        """
        columns = ("names", "dtype_names", "shapes", "starts", "sizes", "offsets")
        for name, dtype_name, shape, start, nbytes, offset in zip(
            *(update[column] for column in columns), strict=True
        ):
            info = TensorInfo(name, getattr(torch, dtype_name), tuple(shape))
            if start == 0:
                self._whole = torch.empty(info.nbytes, dtype=torch.uint8, device=buffer.device)
            self._whole[start : start + nbytes].copy_(buffer[offset : offset + nbytes])
            if start + nbytes == info.nbytes:
                whole, self._whole = self._whole, torch.empty(0, dtype=torch.uint8)
                yield name, whole.view(info.dtype).view(info.shape)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def _gathered(mine: dict[str, dict[str, Any]], group: Group) -> dict[str, dict[str, Any]]:
    if not dist.is_initialized():
        return mine
    parts: list[dict[str, dict[str, Any]]] = [{}] * dist.get_world_size(group)
    dist.all_gather_object(parts, mine, group=group)
    return {uuid: handle for part in parts for uuid, handle in part.items()}


def meet(device: torch.device, group: Group) -> None:
    """Wait for this rank's GPU, then for all ranks."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if dist.is_initialized():
        dist.barrier(group)

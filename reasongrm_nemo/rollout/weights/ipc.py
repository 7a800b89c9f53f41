# SPDX-License-Identifier: Apache-2.0
"""Weights handed from a trainer rank to the vLLM worker on the same GPU, in one buffer that both see.

CUDA's interprocess handles: every rank fills its own buffer with the same bucket of tensors, its worker
copies them out, and the buffer takes the next bucket.  vLLM has an engine `ipc` of its own for that, whose
handles go over HTTP as a pickle that its server must be told to trust (VLLM_ALLOW_INSECURE_SERIALIZATION, for
all that it receives).  Here a handle is five plain values in JSON, and nothing is unpickled.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from reasongrm_nemo.models.tensor_info import TensorInfo

BUCKET_BYTES = 256 * 2**20
_ALIGN = 256
_LET_GO = 1  # in a buffer's last byte

# Places in the arguments of torch's `rebuild_cuda_tensor`, of which `reduce_tensor` gives (function,
# arguments).  The others are those of a flat tensor of bytes and follow from its size.
_BYTES_AT = {"handle": 7, "ref_counter_handle": 11, "event_handle": 13}
_PLAIN_AT = {"size": 8, "offset": 9, "ref_counter_offset": 12, "event_sync": 14}
_DEVICE_AT = 6
_COUNTER_AT, _COUNTER_PLACE_AT = _BYTES_AT["ref_counter_handle"], _PLAIN_AT["ref_counter_offset"]

Reduce = Callable[[torch.Tensor], tuple[Any, tuple[Any, ...]]]


@dataclass(frozen=True)
class BufferPiece:
    """Some of a tensor's bytes in a shared buffer.

    Attributes:
        info: the tensor.
        start: of the piece in the tensor, bytes.
        nbytes: of the piece.
        offset: of the piece in the buffer, bytes.
    """

    info: TensorInfo
    start: int
    nbytes: int
    offset: int


@dataclass(frozen=True)
class Bucket:
    """Some tensors, or pieces of them, in the shared buffers.

    Attributes:
        pieces: what is there.
        handles: GPU's UUID -> the buffer there (`describe_buffer`).
    """

    pieces: Sequence[BufferPiece]
    handles: dict[str, dict[str, Any]]

    def update_info(self) -> dict[str, Any]:
        """For the workers' engine, as JSON takes it."""
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
    """Tensors in their order, in buckets of at most `limit` bytes; a larger tensor is cut into pieces."""
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

    Torch counts what was exported, 1 until an importer lets go, and keeps the memory meanwhile. Nobody
    imports the buffer on the GPU of a server that is not sent to, and a worker that was killed never lets go:
    then the count is taken down here. Below zero, where a worker has let go as well, torch keeps the memory
    for good; so workers leave word in the buffer (`mark_let_go`).

    Args:
        reduce: torch's `reduce_tensor`.
        release: torch's `UntypedStorage._release_ipc_counter`, by which a process lets go.
    """

    def __init__(self, reduce: Reduce, release: Callable[..., Any]) -> None:
        self._reduce, self._release = reduce, release
        self._last: tuple[torch.Tensor, Sequence[Any]] | None = None

    def __call__(self, buffer: torch.Tensor) -> tuple[Any, tuple[Any, ...]]:
        """Export a buffer that `buckets` has made."""
        made = self._reduce(buffer)
        self._last = buffer, made[1]
        return made

    def settle(self) -> None:
        """Give up the last buffer if its worker has let go; to be called when a push has ended everywhere."""
        if self._last is not None and int(self._last[0][-1]) == _LET_GO:
            self._last = None

    def let_go(self) -> None:
        """Give up the last buffer, in the place of a worker that never came or was killed.

        To be called before the next push: whoever broke off a push is started anew before that, and memory
        must not go back to CUDA while it is open in another process.
        """
        self.settle()
        last, self._last = self._last, None
        if last is not None:
            counter, place, device = (last[1][i] for i in (_COUNTER_AT, _COUNTER_PLACE_AT, _DEVICE_AT))
            self._release(counter, place, device=device)


def mark_let_go(buffer: torch.Tensor) -> None:
    """Tell the process that exported a buffer that this one lets go of it, now."""
    buffer[-1] = _LET_GO
    int(buffer[-1])  # waits for the GPU


def buckets(
    infos: Sequence[TensorInfo],
    named_tensors: Iterable[tuple[str, torch.Tensor]],
    device: torch.device,
    uuid: str,
    reduce: Reduce,
    limit: int = BUCKET_BYTES,
) -> Iterator[Bucket]:
    """Fill this rank's buffer, bucket by bucket; collective over torch's default group, if any.

    Whoever sends asks for the next bucket when the workers have copied the last; the other ranks just ask.

    Args:
        infos: of all tensors.
        named_tensors: whole on every rank, in that order.
        device: of the buffer.
        uuid: of its GPU.
        reduce: torch's `reduce_tensor`, or `Exports`.
        limit: most bytes of tensors in the buffer.
    """
    size = max(bucket[-1].offset + bucket[-1].nbytes for bucket in plan_buckets(infos, limit))
    buffer = torch.empty(size + 1, dtype=torch.uint8, device=device)
    buffer[-1] = 0  # see `mark_let_go`
    # Shared once: its reference count pairs one export with one import.
    handles = _gathered({uuid: describe_buffer(reduce(buffer)[1])})
    tensors = iter(named_tensors)
    whole = torch.empty(0, dtype=torch.uint8)
    for bucket in plan_buckets(infos, limit):
        for piece in bucket:
            if piece.start == 0:
                whole = _bytes(next(tensors)[1])
            place = slice(piece.offset, piece.offset + piece.nbytes)
            buffer[place].copy_(whole[piece.start : piece.start + piece.nbytes])
        _meet(device)  # every rank's buffer is full
        yield Bucket(bucket, handles)
        _meet(device)  # every worker has read it
    for _ in tensors:  # lets the sender's check see one too many
        pass


def describe_buffer(arguments: Sequence[Any]) -> dict[str, Any]:
    """What another process needs of `reduce_tensor`'s arguments for a flat tensor of bytes, fit for JSON."""
    described = {name: b64encode(arguments[i]).decode("ascii") for name, i in _BYTES_AT.items()}
    return described | {name: arguments[i] for name, i in _PLAIN_AT.items()}


def rebuild_arguments(described: dict[str, Any], device: int) -> tuple[Any, ...]:
    """The inverse of `describe_buffer`, on another process's GPU `device`: for `rebuild_cuda_tensor`.

    Raises:
        KeyError, TypeError, ValueError: not a description.
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
    """Copies of tensors out of a buffer, as buckets come; one that was cut is put together."""

    def __init__(self) -> None:
        self._whole = torch.empty(0, dtype=torch.uint8)  # the tensor whose pieces are coming

    def tensors(self, buffer: torch.Tensor, update: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors that a bucket completes, one at a time: vLLM keeps them until their layer is whole.

        Args:
            buffer: bytes, on the GPU.
            update: `Bucket.update_info`.
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


def _gathered(mine: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    if not dist.is_initialized():
        return mine
    parts: list[dict[str, dict[str, Any]]] = [{}] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return {uuid: handle for part in parts for uuid, handle in part.items()}


def _meet(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if dist.is_initialized():
        dist.barrier()

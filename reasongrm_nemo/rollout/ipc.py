# SPDX-License-Identifier: Apache-2.0
"""Weights handed from a trainer rank to the vLLM worker on the same GPU, in one buffer that both see.

CUDA's interprocess handles: every rank fills its own buffer with the same bucket of whole tensors, its worker
copies them out, and the buffer takes the next bucket.  vLLM has an engine `ipc` of its own for that, whose
handles go over HTTP as a pickle that its server must be told to trust (VLLM_ALLOW_INSECURE_SERIALIZATION, for
all that it receives).  Here a handle is five plain values in JSON, and nothing is unpickled.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from reasongrm_nemo.tensors import TensorInfo

BUCKET_BYTES = 256 * 2**20
_ALIGN = 256

# Places in the arguments of torch's `rebuild_cuda_tensor`, of which `reduce_tensor` gives (function,
# arguments).  The others are those of a flat tensor of bytes and follow from its size.
_BYTES_AT = {"handle": 7, "ref_counter_handle": 11, "event_handle": 13}
_PLAIN_AT = {"size": 8, "offset": 9, "ref_counter_offset": 12, "event_sync": 14}
_DEVICE_AT = 6

Reduce = Callable[[torch.Tensor], tuple[Any, tuple[Any, ...]]]


@dataclass(frozen=True)
class Bucket:
    """Some tensors in the shared buffers.

    Attributes:
        infos: what they are.
        offsets: where each begins, bytes.
        handles: GPU's UUID -> the buffer there (`describe`).
    """

    infos: Sequence[TensorInfo]
    offsets: Sequence[int]
    handles: dict[str, dict[str, Any]]

    def update_info(self) -> dict[str, Any]:
        """For the workers' engine, as JSON takes it."""
        return {
            "names": [info.name for info in self.infos],
            "dtype_names": [str(info.dtype).removeprefix("torch.") for info in self.infos],
            "shapes": [list(info.shape) for info in self.infos],
            "offsets": list(self.offsets),
            "handles": self.handles,
        }


def plan(infos: Sequence[TensorInfo], limit: int) -> Iterator[list[tuple[TensorInfo, int]]]:
    """Tensors in their order, with their offsets, in buckets of at most `limit` bytes.

    A tensor that is larger than that has a bucket of its own.
    """
    bucket: list[tuple[TensorInfo, int]] = []
    end = 0
    for info in infos:
        if bucket and end + info.nbytes > limit:
            yield bucket
            bucket, end = [], 0
        bucket.append((info, end))
        end += -(-info.nbytes // _ALIGN) * _ALIGN
    if bucket:
        yield bucket


class Exports:
    """torch's `reduce_tensor`, for one buffer at a time.

    Torch keeps a buffer that was exported until whoever imported it lets go. Nobody imports it on the GPU of
    a server that is not sent to, or of none at all, and a worker that was killed never lets go.

    Args:
        reduce: torch's `reduce_tensor`.
        release: torch's `UntypedStorage._release_ipc_counter`, by which a process lets go.
    """

    def __init__(self, reduce: Reduce, release: Callable[..., Any]) -> None:
        self._reduce, self._release = reduce, release
        self._last: Sequence[Any] | None = None

    def __call__(self, buffer: torch.Tensor) -> tuple[Any, tuple[Any, ...]]:
        """Export it."""
        made = self._reduce(buffer)
        self._last = made[1]
        return made

    def let_go(self) -> None:
        """Of the last buffer, in the place of whoever never will; a worker that lives has let go by then.

        To be called before the next push, not after the last: a worker ends its update after this process's
        part in it, and memory must not go back to CUDA while it is open in another process.
        """
        last, self._last = self._last, None
        if last is not None:
            counter, place = last[_BYTES_AT["ref_counter_handle"]], last[_PLAIN_AT["ref_counter_offset"]]
            self._release(counter, place, device=last[_DEVICE_AT])


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
        limit: most bytes of the buffer, unless a tensor is larger.
    """
    size = max(bucket[-1][1] + bucket[-1][0].nbytes for bucket in plan(infos, limit))
    buffer = torch.empty(size, dtype=torch.uint8, device=device)
    # Shared once: its reference count pairs one export with one import.
    handles = _gathered({uuid: describe(reduce(buffer)[1])})
    tensors = iter(named_tensors)
    for bucket in plan(infos, limit):
        for info, offset in bucket:
            _, tensor = next(tensors)
            buffer[offset : offset + info.nbytes].copy_(_bytes(tensor))
        _meet(device)  # every rank's buffer is full
        yield Bucket([info for info, _ in bucket], [offset for _, offset in bucket], handles)
        _meet(device)  # every worker has read it
    for _ in tensors:  # lets the sender's check see one too many
        pass


def describe(arguments: Sequence[Any]) -> dict[str, Any]:
    """What another process needs of `reduce_tensor`'s arguments for a flat tensor of bytes, fit for JSON."""
    described = {name: b64encode(arguments[i]).decode("ascii") for name, i in _BYTES_AT.items()}
    return described | {name: arguments[i] for name, i in _PLAIN_AT.items()}


def rebuild_arguments(described: dict[str, Any], device: int) -> tuple[Any, ...]:
    """The inverse of `describe`, on another process's GPU `device`: arguments of `rebuild_cuda_tensor`.

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


def unpack(
    buffer: torch.Tensor,
    names: Sequence[str],
    dtype_names: Sequence[str],
    shapes: Any,
    offsets: Sequence[int],
) -> Iterator[tuple[str, torch.Tensor]]:
    """Copies of the tensors in a buffer, one at a time: vLLM keeps them until their layer is whole."""
    for name, dtype_name, shape, offset in zip(names, dtype_names, shapes, offsets, strict=True):
        info = TensorInfo(name, getattr(torch, dtype_name), tuple(shape))
        view = buffer[offset : offset + info.nbytes]
        yield name, view.clone().view(info.dtype).view(info.shape)


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

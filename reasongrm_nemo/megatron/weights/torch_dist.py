# SPDX-License-Identifier: Apache-2.0
"""Writes and reads megatron-core's torch_dist checkpoints piece by piece, without ranks or a model.

The format is PyTorch's distributed checkpoint: it stores whole tensors in chunks of any size, so a
checkpoint written for one tensor and pipeline parallelism loads at any other. megatron-core adds two small
files and stacks a parameter's layers along a first dimension.
"""

from __future__ import annotations

import itertools
import json
import math
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.checkpoint.utils import _create_file_view
from torch.futures import Future

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.writes import StreamedFile
from reasongrm_nemo.megatron.weights.description import read_description
from reasongrm_nemo.megatron.weights.mappings import Box

# Size of a chunk, and thus of a thread's memory. Below 32 MB the allocator reuses memory, which saves the
# kernel from clearing pages; clearing cost more than copying.
CHUNK_BYTES = 16 << 20
FILE_BYTES = 1 << 30  # approximate size of a file


@dataclass(frozen=True)
class Piece:
    """A box of a stored tensor, and a function that returns its values.

    Attributes:
        key: key of the stored tensor.
        size: shape of the stored tensor.
        box: box of the stored tensor.
        group: pieces of different groups go to different files.
        get: returns the values in the box's shape; called once, when writing.
    """

    key: str
    size: tuple[int, ...]
    box: Box
    group: int
    get: Callable[[], Tensor]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the box."""
        return tuple(stop - start for start, stop in self.box)


def rows_of(box: Box, row_bytes: int, unit: int) -> Iterator[Box]:
    """Split ``box`` along its first dimension into parts of about CHUNK_BYTES at most.

    Args:
        box: box to split.
        row_bytes: bytes per row of the box.
        unit: parts hold a multiple of this number of rows.
    """
    (start, stop), *rest = box
    step = max(CHUNK_BYTES // max(row_bytes * unit, 1), 1) * unit
    for first in range(start, stop, step):
        yield ((first, min(first + step, stop)), *rest)


def write(
    folder: Path, pieces: Sequence[Piece], objects: Sequence[str], dtype: torch.dtype, threads: int
) -> None:
    """Write a checkpoint that megatron-core's ``dist_checkpointing.load`` reads.

    Args:
        folder: new or empty folder.
        pieces: pieces that cover every stored tensor without overlap.
        objects: keys under which megatron-core expects an object; each is stored as None.
        dtype: dtype of every tensor.
        threads: number of files written at once.

    Raises:
        OSError: the disk is full or fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # loading does not verify the checksums, and computing them takes a second per 1.5 GB
    sums = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ignore the warning about a missing process group
        try:
            dcp.save(
                {},
                storage_writer=_Writer(folder, threads),
                planner=_Planner(pieces, objects, dtype),
            )
        except dcp.api.CheckpointException as error:
            raise next(iter(error.failures.values()))[0] from None
        finally:
            torch.serialization.set_crc32_options(sums)
    torch.save({}, folder / "common.pt")
    config = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
    config |= {"common_backend": "torch", "common_backend_version": 1}
    (folder / "metadata.json").write_text(json.dumps(config))


class _Planner(dcp.DefaultSavePlanner):
    """Plans pieces whose values are not computed yet."""

    def __init__(self, pieces: Sequence[Piece], objects: Sequence[str], dtype: torch.dtype) -> None:
        super().__init__()
        self._objects = objects
        self._dtype = dtype
        self.pieces = {MetadataIndex(p.key, [start for start, _ in p.box]): p for p in pieces}

    def create_local_plan(self) -> SavePlan:
        properties = TensorProperties(dtype=self._dtype)
        items = []
        for index, piece in self.pieces.items():
            chunk = ChunkStorageMetadata(index.offset, torch.Size(piece.shape))
            data = TensorWriteData(chunk, properties, torch.Size(piece.size))
            items.append(WriteItem(index, WriteItemType.SHARD, tensor_data=data))
        items += [WriteItem(MetadataIndex(key), WriteItemType.BYTE_IO) for key in self._objects]
        self.plan = SavePlan(items, planner_data={})
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Any:
        if write_item.type == WriteItemType.BYTE_IO:
            return [None]  # megatron-core stores a list of the ranks' objects
        tensor = self.pieces[write_item.index].get()
        if tensor.untyped_storage().nbytes() != tensor.nbytes:
            # torch.save writes the whole storage of a view
            return tensor.clone(memory_format=torch.contiguous_format)
        return tensor.contiguous()


class _Writer(dcp.FileSystemWriter):
    """FileSystemWriter that frees tensors once written, and raises the errors of its threads."""

    def __init__(self, folder: Path, threads: int) -> None:
        super().__init__(folder, thread_count=threads)

    def write_data(self, plan: SavePlan, planner: Any) -> Future[list[WriteResult]]:
        files = _files(plan.items, planner.pieces)
        with ThreadPoolExecutor(self.thread_count) as pool:
            written = pool.map(lambda file: self._write_file(file[0], file[1], planner), files)
            results = [result for file in written for result in file]
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def _write_file(self, name: str, items: list[WriteItem], planner: _Planner) -> list[WriteResult]:
        results = []
        with StreamedFile(Path(self.path) / name) as out:
            for item in items:
                start = out.tell()
                torch.save(planner.resolve_data(item), out)
                info = _StorageInfo(name, start, out.tell() - start)
                results.append(WriteResult(item.index, info.length, info))
        return results


def _files(
    items: Sequence[WriteItem], pieces: dict[MetadataIndex, Piece]
) -> list[tuple[str, list[WriteItem]]]:
    """Split items, sorted by group, over files: a new file for each group and when a file is full."""
    files: list[tuple[str, list[WriteItem]]] = []
    group, part, size = None, 0, 0
    objects = [item for item in items if item.type == WriteItemType.BYTE_IO]
    if objects:
        files.append(("__objects.distcp", objects))
    tensors = [item for item in items if item.type != WriteItemType.BYTE_IO]
    for item in sorted(tensors, key=lambda item: pieces[item.index].group):
        data = item.tensor_data
        nbytes = math.prod(data.chunk.sizes) * data.properties.dtype.itemsize
        here = pieces[item.index].group
        if here != group or size + nbytes > FILE_BYTES:
            part = part + 1 if here == group else 0
            group, size = here, 0
            files.append((f"__{group}_{part}.distcp", []))
        files[-1][1].append(item)
        size += nbytes
    return files


class Reader:
    """Reads tensors of a torch_dist checkpoint, whole or in parts; thread-safe.

    Raises:
        UserError: there is no checkpoint, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        try:
            with (self.folder / ".metadata").open("rb") as file:
                metadata = read_description(file)
        except FileNotFoundError:
            raise UserError(f"{folder} is not a torch_dist checkpoint: it has no .metadata.") from None
        except (pickle.UnpicklingError, EOFError, AttributeError, ImportError) as error:
            raise UserError(f"{folder / '.metadata'} is damaged or in an unknown format: {error}.") from None
        self._stored: dict[MetadataIndex, _StorageInfo] = metadata.storage_data
        self.tensors: dict[str, TensorStorageMetadata] = {
            key: value
            for key, value in metadata.state_dict_metadata.items()
            if not isinstance(value, BytesStorageMetadata)
        }
        self._check_files(metadata)
        self._layers: dict[tuple[str, int], TensorStorageMetadata] = {}

    def _check_files(self, metadata: Metadata) -> None:
        ends: dict[str, int] = {}
        for info in metadata.storage_data.values():
            ends[info.relative_path] = max(ends.get(info.relative_path, 0), info.offset + info.length)
        for name, end in ends.items():
            path = self.folder / name
            size = path.stat().st_size if path.is_file() else None
            if size is None or size < end:
                state = "is missing" if size is None else f"has {size} bytes of {end}"
                raise UserError(f"The checkpoint at {self.folder} is damaged: {name} {state}.")

    def read(self, key: str, box: Box) -> Tensor:
        """Read a box of a stored tensor, in its stored dtype.

        Raises:
            UserError: a part is missing, or a file's content is damaged.
        """
        target, filled = None, 0
        for chunk in self._near(key, box).chunks:
            spans = list(zip(chunk.offsets, chunk.sizes, strict=True))
            shared = [
                (max(lo, first), min(hi, first + n)) for (lo, hi), (first, n) in zip(box, spans, strict=True)
            ]
            if any(lo >= hi for lo, hi in shared):
                continue
            inside = tuple(
                slice(lo - first, hi - first) for (lo, hi), (first, _) in zip(shared, spans, strict=True)
            )
            values = self._chunk(key, chunk)[inside]
            if tuple(shared) == tuple(box):
                return values
            if target is None:
                target = torch.empty([hi - lo for lo, hi in box], dtype=values.dtype)
            place = tuple(slice(lo - at, hi - at) for (lo, hi), (at, _) in zip(shared, box, strict=True))
            target[place] = values
            filled += values.numel()
        if target is None or filled != target.numel():
            raise UserError(f"The checkpoint at {self.folder} lacks a part of {key}.")
        return target

    def _chunk(self, key: str, chunk: ChunkStorageMetadata) -> Tensor:
        info = self._stored[MetadataIndex(key, chunk.offsets)]
        if getattr(info, "transform_descriptors", None):
            raise UserError(f"The checkpoint at {self.folder} is compressed, which is not supported.")
        try:
            with (self.folder / info.relative_path).open("rb") as file:
                part: Any = _create_file_view(file, info.offset, info.length)
                return torch.load(part, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
            first = str(error).splitlines()[0]
            raise UserError(f"The checkpoint at {self.folder} is damaged in {key}: {first}") from None

    def blocks(self, key: str, box: Box, dimension: int) -> Iterator[Tensor]:
        """Yield a box in parts along ``dimension`` that follow the boundaries of stored chunks.

        Chunks can only be read whole, so parts that split a chunk would read it several times.
        """
        start, stop = box[dimension]
        edges = {start, stop}
        for chunk in self._near(key, box).chunks:
            first = chunk.offsets[dimension]
            edges |= {e for e in (first, first + chunk.sizes[dimension]) if start < e < stop}
        for span in itertools.pairwise(sorted(edges)):
            yield self.read(key, (*box[:dimension], span, *box[dimension + 1 :]))

    def _near(self, key: str, box: Box) -> TensorStorageMetadata:
        """The tensor's description with only the chunks of the box's layer: a few out of thousands."""
        known, first = self.tensors[key], box[0]
        if first[1] - first[0] != 1:
            return known
        if (key, first[0]) not in self._layers:
            chunks = [c for c in known.chunks if c.offsets[0] <= first[0] < c.offsets[0] + c.sizes[0]]
            self._layers[key, first[0]] = TensorStorageMetadata(known.properties, known.size, chunks)
        return self._layers[key, first[0]]

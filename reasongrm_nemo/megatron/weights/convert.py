# SPDX-License-Identifier: Apache-2.0
"""Converts checkpoints between Hugging Face and Megatron as streams, without building a model or ranks.

Each thread holds a few chunks whatever the model's size: chunks of ``torch_dist.CHUNK_BYTES``, or, when
reading a training checkpoint, the chunks that its ranks wrote.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.writes import whole_folder, write_json
from reasongrm_nemo.megatron.weights import torch_dist
from reasongrm_nemo.megatron.weights.hf_folder import (
    HFTensors,
    copy_companions,
    raw_bytes,
    shards,
    write_index,
    write_safetensors,
)
from reasongrm_nemo.megatron.weights.mappings import Box
from reasongrm_nemo.megatron.weights.names import Parameter, empty_objects, parameters, tensor_infos
from reasongrm_nemo.megatron.weights.nemo_folder import WEIGHTS, weights_folder, write_model_config
from reasongrm_nemo.models.architecture import Architecture, Layout
from reasongrm_nemo.models.tensor_info import TensorInfo


def default_threads() -> int:
    """Two threads per core available to this process, because they wait for the disk; at most 8."""
    return min(8, 2 * len(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class Converted:
    """Summary of a conversion.

    Attributes:
        folder: the folder that was written.
        tensors: number of Hugging Face tensors.
        parameters: number of parameters.
        nbytes: bytes of all values.
        dtype: dtype of every tensor.
    """

    folder: Path
    tensors: int
    parameters: int
    nbytes: int
    dtype: torch.dtype


def hf_to_megatron(
    source: Path,
    target: Path,
    layout: Layout,
    dtype: torch.dtype | None = None,
    rope: Mapping[str, Any] | None = None,
    threads: int | None = None,
    beside: Mapping[str, Any] | None = None,
) -> Converted:
    """Write a folder that NeMo-Aligner can restore: ``model_config.yaml``, ``model_weights``, tokenizer.

    The weights are a torch_dist checkpoint, which loads at any tensor and pipeline parallelism; ``layout``
    only sets the sizes of its chunks and the entries in model_config.yaml.

    Args:
        source: a Hugging Face folder.
        target: must not exist; written atomically.
        layout: tensor and pipeline parallelism, including uneven stages.
        dtype: dtype of the written weights; None keeps the stored dtype.
        rope: a recipe's ``model.rope``; None keeps config.json's rope.
        threads: number of files written at once; None: see ``default_threads``.
        beside: further JSON files for the folder, by name; values may be functions of the folder's path.

    Raises:
        UserError: the source does not match its config.json, the layout does not divide the model, or the
            disk is too small.
    """
    architecture = Architecture.from_folder(source, rope)
    layout.check(architecture, str(Path(source) / "config.json"))
    tensors = HFTensors(source)
    known = list(parameters(architecture))
    tensors.check(tensor_infos(known, torch.float32))  # of any dtype
    dtype = dtype or tensors.dtype()
    pieces = [piece for p in known for piece in _pieces(p, tensors, architecture, layout, dtype)]
    total = sum(math.prod(piece.shape) for piece in pieces)
    with whole_folder(Path(target), total * dtype.itemsize) as partial:
        torch_dist.write(
            partial / WEIGHTS, pieces, empty_objects(architecture), dtype, threads or default_threads()
        )
        copy_companions(Path(source), partial, dtype, rope)
        write_model_config(partial, Path(target), architecture, layout, dtype)
        _write_beside(partial, beside)
    return Converted(Path(target), len(tensors.infos), total, total * dtype.itemsize, dtype)


def megatron_to_hf(
    source: Path,
    target: Path,
    companions: Path | None = None,
    dtype: torch.dtype | None = None,
    rope: Mapping[str, Any] | None = None,
    threads: int | None = None,
    beside: Mapping[str, Any] | None = None,
) -> Converted:
    """Write a Hugging Face folder from a torch_dist checkpoint of any parallelism.

    Args:
        source: a folder written by ``hf_to_megatron``, a checkpoint of a training run, or any torch_dist
            checkpoint with megatron-core's names.
        target: must not exist; written atomically.
        companions: a Hugging Face folder with the model's config and tokenizer; None: ``source`` has them.
        dtype: dtype of the written weights; None keeps the stored dtype.
        rope: a recipe's ``model.rope``; None keeps config.json's rope.
        threads: number of files written at once; None: see ``default_threads``.
        beside: further JSON files for the folder, by name; values may be functions of the folder's path.

    Raises:
        UserError: the checkpoint does not match config.json or is damaged, or the disk is too small.
    """
    companions = Path(companions or source)
    if not (companions / "config.json").is_file():
        raise UserError(
            f"{companions} has no config.json; name the Hugging Face folder with the model's config and "
            "tokenizer (--companions)."
        )
    reader = _MegatronTensors(Architecture.from_folder(companions, rope), source)
    dtype = dtype or reader.dtype
    infos = reader.infos(dtype)
    total = sum(info.nbytes for info in infos)
    files = shards(infos)
    with whole_folder(Path(target), total) as partial:
        copy_companions(companions, partial, dtype, rope)

        def write(name: str) -> None:
            write_safetensors(partial / name, files[name], map(reader.blocks, files[name]))

        _in_threads(write, list(files), threads)
        write_index(partial, files)
        _write_beside(partial, beside)
    numbers = sum(math.prod(info.shape) for info in infos)
    return Converted(Path(target), len(infos), numbers, total, dtype)


def verify(
    hf: Path, megatron: Path, rope: Mapping[str, Any] | None = None, threads: int | None = None
) -> int:
    """Compare the hashes of all tensors in both checkpoints, applying the inverse mapping to Megatron's.

    If dtypes differ, tensors are compared in the Megatron checkpoint's dtype.

    Returns:
        Number of tensors compared.

    Raises:
        UserError: tensors differ; the message names the first few.
    """
    reader = _MegatronTensors(Architecture.from_folder(hf, rope), megatron)
    source = HFTensors(hf)
    infos = reader.infos(reader.dtype)
    source.check(infos)

    def compare(info: TensorInfo) -> str | None:
        # a tensor stored in a narrower dtype is compared in the narrower one
        narrow = min(source.infos[info.name].dtype, info.dtype, key=lambda dtype: dtype.itemsize)
        stored = (part.to(info.dtype) for part in source.blocks(info.name))
        same = _digest(stored, narrow) == _digest(reader.blocks(info), narrow)
        return None if same else info.name

    different = [name for name in _in_threads(compare, infos, threads) if name]
    if different:
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise UserError(f"{megatron} differs from {hf} in {', '.join(different[:3])}{more}.")
    return len(infos)


def _write_beside(folder: Path, beside: Mapping[str, Any] | None) -> None:
    for name, content in (beside or {}).items():
        write_json(folder / name, content(folder) if callable(content) else content)


def _digest(parts: Iterable[Tensor], dtype: torch.dtype) -> bytes:
    digest = hashlib.blake2b()
    for part in parts:
        digest.update(raw_bytes(part.to(dtype)))
    return digest.digest()


def _in_threads(work: Callable[[Any], Any], items: Sequence[Any], threads: int | None) -> list[Any]:
    with ThreadPoolExecutor(threads or default_threads()) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _pieces(
    parameter: Parameter, tensors: HFTensors, architecture: Architecture, layout: Layout, dtype: torch.dtype
) -> Iterator[torch_dist.Piece]:
    """The pieces of one parameter: each rank's boxes, split to a bounded size."""
    mapping = parameter.mapping
    ranks = 1 if mapping.axis is None else layout.tensor
    for rank in range(ranks):
        for box in mapping.boxes(rank, ranks):
            row_bytes = math.prod(stop - start for start, stop in box[1:]) * dtype.itemsize
            for part in torch_dist.rows_of(box, row_bytes, mapping.unit):
                yield torch_dist.Piece(
                    key=parameter.stored,
                    size=parameter.stored_shape(architecture.layers),
                    box=(*parameter.place, *part),
                    group=_stage(parameter, architecture, layout),
                    get=_Read(parameter, tensors, part, dtype),
                )


@dataclass(frozen=True)
class _Read:
    """Reads the values of a piece when called."""

    parameter: Parameter
    tensors: HFTensors
    box: Box
    dtype: torch.dtype

    def __call__(self) -> Tensor:
        views = [self.tensors.view(name) for name in self.parameter.hf]
        values = self.parameter.mapping.read(views, self.box).to(self.dtype)
        return values.unsqueeze(0) if self.parameter.place else values


def _stage(parameter: Parameter, architecture: Architecture, layout: Layout) -> int:
    """The pipeline stage that holds a parameter; parameters of different stages go to different files."""
    if parameter.layer is None:
        return 0 if parameter.megatron.startswith("embedding.") else layout.pipeline - 1
    first = 0
    for stage, count in enumerate(layout.stages(architecture.layers) or []):
        first += count
        if parameter.layer < first:
            return stage
    raise AssertionError("a layer past the last stage")


class _MegatronTensors:
    """Reads Hugging Face tensors from a torch_dist checkpoint.

    Raises:
        UserError: the stored tensors do not match the architecture.
    """

    def __init__(self, architecture: Architecture, folder: Path) -> None:
        self._reader = torch_dist.Reader(weights_folder(folder))
        self._known = list(parameters(architecture))
        self._check(folder, architecture.layers)
        self.dtype = self._reader.tensors[self._known[0].stored].properties.dtype
        self._of = {name: (p, i) for p in self._known for i, name in enumerate(p.hf)}

    def _check(self, folder: Path, layers: int) -> None:
        stored = {
            key: tuple(value.size)
            for key, value in self._reader.tensors.items()
            if key.startswith("model.") and not key.endswith("_extra_state")
        }
        wanted = {p.stored: p.stored_shape(layers) for p in self._known}
        mismatches = {
            "missing": sorted(wanted.keys() - stored.keys()),
            "unexpected": sorted(stored.keys() - wanted.keys()),
            "wrong shape": sorted(
                f"{key} {list(stored[key])} instead of {list(shape)}"
                for key, shape in wanted.items()
                if key in stored and not _fits(stored[key], shape, key)
            ),
        }
        parts = [f"{label}: {', '.join(names[:5])}" for label, names in mismatches.items() if names]
        if parts:
            raise UserError(f"The tensors at {folder} do not match its config.json; {'; '.join(parts)}.")

    def infos(self, dtype: torch.dtype) -> list[TensorInfo]:
        """Name, dtype and shape of every Hugging Face tensor, in the model's order."""
        return tensor_infos(self._known, dtype)

    def blocks(self, info: TensorInfo) -> Iterator[Tensor]:
        """Yield one tensor's values in parts along its first dimension, in the dtype of ``info``."""
        parameter, index = self._of[info.name]
        mapping, place = parameter.mapping, parameter.place
        parts = self._reader.blocks(parameter.stored, (*place, *mapping.needed_for(index)), len(place))
        parts = (part.squeeze(0) if place else part for part in parts)
        if mapping.unit > 1:
            parts = iter([mapping.pick(torch.cat(list(parts)), index)])
        for part in parts:
            yield part.to(info.dtype)


def _fits(stored: tuple[int, ...], shape: tuple[int, ...], key: str) -> bool:
    """Whether a stored shape is valid; Megatron pads the vocabulary depending on its number of ranks."""
    if key in ("model.embedding.word_embeddings.weight", "model.output_layer.weight"):
        return stored[0] >= shape[0] and stored[1:] == shape[1:]
    return stored == shape

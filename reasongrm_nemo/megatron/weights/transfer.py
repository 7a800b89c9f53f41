# SPDX-License-Identifier: Apache-2.0
"""Weights of a live, sharded Megatron model: in from a Hugging Face folder, out as named tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.megatron.gpt import ScoringGPTModel
from reasongrm_nemo.megatron.weights.architectures import Architecture
from reasongrm_nemo.megatron.weights.hf_folder import HFTensors
from reasongrm_nemo.megatron.weights.mappings import Mapping


@dataclass(frozen=True)
class _Parameter:
    """One parameter of the whole model: its mapping, and both sides' names at its layer."""

    mapping: Mapping
    megatron: str
    hf: tuple[str, ...]


class WeightTransfer:
    """Moves weights between this rank's part of a model and Hugging Face tensors.

    Every name on both sides is used exactly once; what is left over or missing is an error.
    """

    def __init__(self, module: ScoringGPTModel, architecture: Architecture, transformer_engine: bool) -> None:
        self._rank = parallel_state.get_tensor_model_parallel_rank()
        self._size = parallel_state.get_tensor_model_parallel_world_size()
        self._local = _parameters_by_global_name(module)
        self._tied_copy = architecture.tied and "output_layer.weight" in self._local
        self.parameters = [
            _Parameter(m, *m.at(layer))
            for layer in range(architecture.layers)
            for m in architecture.layer_mappings(transformer_engine)
        ] + [_Parameter(m, *m.at(0)) for m in architecture.outer_mappings(self._size)]
        self._check_local_names()
        self._owners = _owners(self._local)

    def load(self, folder: Path) -> None:
        """Fill this rank's parameters from a Hugging Face folder.

        Raises:
            UserError: a tensor is missing, left over, or has another shape than the config says.
        """
        source = HFTensors(folder)
        self._check_hf_names(source, folder)
        for parameter in self.parameters:
            if parameter.megatron in self._local:
                self._fill(parameter, source, self._local[parameter.megatron], folder)
        if self._tied_copy:
            # under pipeline parallelism the last stage holds its own copy of the tied embedding
            embedding = next(p for p in self.parameters if p.megatron == "embedding.word_embeddings.weight")
            self._fill(embedding, source, self._local["output_layer.weight"], folder)

    def metadata(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """Names, dtypes and shapes of ``export``, in its order; collective over the model-parallel group."""
        mine = {}
        for parameter in self.parameters:
            if parameter.megatron in self._local:
                shard = self._local[parameter.megatron]
                meta = torch.empty(shard.shape, dtype=shard.dtype, device="meta")
                whole = parameter.mapping.join([meta] * self._size)
                mine[parameter.megatron] = [(t.dtype, tuple(t.shape)) for t in whole]
        stages: list[dict[str, list]] = [{}] * parallel_state.get_pipeline_model_parallel_world_size()
        dist.all_gather_object(stages, mine, group=parallel_state.get_pipeline_model_parallel_group())
        known = {name: shapes for stage in stages for name, shapes in stage.items()}
        return [
            (name, *shape)
            for parameter in self.parameters
            for name, shape in zip(parameter.hf, known[parameter.megatron], strict=True)
        ]

    @torch.no_grad()
    def export(self) -> Iterator[tuple[str, Tensor]]:
        """Whole Hugging Face tensors one after another.

        Collective over the first data-parallel replica: each of its ranks must exhaust the iterator;
        only the replica's first rank gets values that mean anything. Holds one parameter at a time.
        """
        group = parallel_state.get_pipeline_model_parallel_group()
        ranks = dist.get_process_group_ranks(group)
        stage = parallel_state.get_pipeline_model_parallel_rank()
        shapes = iter(self.metadata())
        for parameter in self.parameters:
            owner = self._owners[parameter.megatron]
            described = [next(shapes) for _ in parameter.hf]
            if stage == owner:
                tensors = parameter.mapping.join(self._gather(self._local[parameter.megatron]))
            else:
                tensors = tuple(torch.empty(shape, dtype=dtype) for _, dtype, shape in described)
            for (name, _, _), tensor in zip(described, tensors, strict=True):
                tensor = tensor.detach().contiguous()
                if owner != 0 and self._rank == 0:
                    dist.broadcast(tensor, ranks[owner], group=group)
                yield name, tensor

    def _fill(self, parameter: _Parameter, source: HFTensors, target: Tensor, folder: Path) -> None:
        tensors = [source.get(name) for name in parameter.hf]
        try:
            shard = parameter.mapping.shard(tensors, self._rank, self._size)
        except RuntimeError:
            shard = None
        if shard is None or shard.shape != target.shape:
            shapes = ", ".join(f"{n} {tuple(t.shape)}" for n, t in zip(parameter.hf, tensors, strict=True))
            raise UserError(f"{folder}: {shapes} does not fit the shape that config.json describes.")
        with torch.no_grad():
            target.copy_(shard)

    def _gather(self, shard: Tensor) -> list[Tensor]:
        if self._size == 1:
            return [shard.detach()]
        shards = [torch.empty_like(shard) for _ in range(self._size)]
        dist.all_gather(
            shards, shard.detach().contiguous(), group=parallel_state.get_tensor_model_parallel_group()
        )
        return shards

    def _check_local_names(self) -> None:
        known = {p.megatron for p in self.parameters}
        unknown = set(self._local) - known - ({"output_layer.weight"} if self._tied_copy else set())
        if unknown:
            raise UserError(f"No mapping for Megatron parameters: {', '.join(sorted(unknown))}.")

    def _check_hf_names(self, source: HFTensors, folder: Path) -> None:
        expected = {name for p in self.parameters for name in p.hf}
        missing, extra = expected - source.names(), source.names() - expected
        if missing or extra:
            parts = [
                f"{label}: {', '.join(sorted(names)[:5])}" + (" …" if len(names) > 5 else "")
                for label, names in (("missing", missing), ("left over", extra))
                if names
            ]
            raise UserError(
                f"The tensors at {folder} are not those its config.json describes; {'; '.join(parts)}."
            )


def _parameters_by_global_name(module: ScoringGPTModel) -> dict[str, Tensor]:
    """This rank's parameters, with the layers' local indices replaced by global ones."""
    named = {}
    for name, parameter in module.named_parameters():
        if name.startswith("decoder.layers."):
            index, rest = name.removeprefix("decoder.layers.").split(".", 1)
            name = f"decoder.layers.{module.decoder.layers[int(index)].layer_number - 1}.{rest}"
        named[name] = parameter
    return named


def _owners(local: dict[str, Tensor]) -> dict[str, int]:
    """Which pipeline stage holds which parameter (the first, where a tied embedding has two)."""
    stages: list[list[str]] = [[]] * parallel_state.get_pipeline_model_parallel_world_size()
    dist.all_gather_object(stages, list(local), group=parallel_state.get_pipeline_model_parallel_group())
    owners: dict[str, int] = {}
    for stage, names in enumerate(stages):
        for name in names:
            owners.setdefault(name, stage)
    return owners

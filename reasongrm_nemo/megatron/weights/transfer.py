# SPDX-License-Identifier: Apache-2.0
"""Loads weights into a live, sharded Megatron model, and exports them as named Hugging Face tensors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.core import CheckpointingException
from torch import Tensor

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.megatron.checkpoints import fill, without_extra_state
from reasongrm_nemo.megatron.gpt import ScoringGPTModel
from reasongrm_nemo.megatron.weights import plain
from reasongrm_nemo.megatron.weights.hf_folder import HFTensors
from reasongrm_nemo.megatron.weights.names import Parameter, parameters, tensor_infos
from reasongrm_nemo.megatron.weights.nemo_folder import weights_folder
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.models.decoder import EMBEDDING
from reasongrm_nemo.models.tensor_info import TensorInfo


class WeightTransfer:
    """Moves weights between this rank's part of a model and Hugging Face tensors.

    Every name on both sides must be used exactly once; unexpected or missing names are errors.
    """

    def __init__(self, module: ScoringGPTModel, architecture: Architecture, transformer_engine: bool) -> None:
        self._module = module
        self._rank = parallel_state.get_tensor_model_parallel_rank()
        self._size = parallel_state.get_tensor_model_parallel_world_size()
        self._local = _parameters_by_global_name(module)
        self._tied_copy = architecture.tied and "output_layer.weight" in self._local
        self._parameters = list(parameters(architecture, fused_norms=transformer_engine))
        self._check_local_names()
        self._owners = _owners(self._local)

    def load(self, folder: Path) -> None:
        """Fill this rank's parameters from a Hugging Face folder, reading only this rank's part.

        Raises:
            UserError: a tensor is missing, unexpected, or has a different shape than the config says.
        """
        source = HFTensors(folder, compare=dist.get_rank() == 0)
        source.check(self.infos())
        for parameter in self._parameters:
            if parameter.megatron in self._local:
                self._fill(parameter, source, self._local[parameter.megatron])
        if self._tied_copy:
            # under pipeline parallelism the last stage has a separate copy of the tied embedding
            embedding = next(p for p in self._parameters if p.megatron == EMBEDDING)
            self._fill(embedding, source, self._local["output_layer.weight"])

    def load_megatron(self, folder: Path, sharded: dict[str, Any]) -> None:
        """Fill this rank's parameters from a torch_dist checkpoint of any parallelism; collective.

        Args:
            folder: a folder written by ``conversion/hf_to_megatron.py``, or a torch_dist checkpoint.
            sharded: the NeMo model's ``sharded_state_dict()``.

        Raises:
            UserError: not a checkpoint, or one of another model.
        """
        try:
            state = plain.load(without_extra_state(sharded), weights_folder(folder), weights_alone=True)
        except (CheckpointingException, KeyError) as error:
            raise UserError(f"{folder} is not a checkpoint of this model: {error}") from error
        fill(self._module, state, folder)

    def infos(self) -> list[TensorInfo]:
        """Names, dtypes and shapes of the tensors from ``export``, in order."""
        dtype = next(iter(self._local.values())).dtype
        return tensor_infos(self._parameters, dtype)

    @torch.no_grad()
    def export(self, everywhere: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Yield whole Hugging Face tensors, holding one parameter at a time.

        Collective over a data-parallel replica: every rank of the replica must exhaust the iterator.

        Args:
            everywhere: give every rank the values; otherwise only the replica's first rank gets them, and
                the other ranks' tensors are meaningless.
        """
        group = parallel_state.get_pipeline_model_parallel_group()
        ranks = dist.get_process_group_ranks(group)
        stage = parallel_state.get_pipeline_model_parallel_rank()
        infos = iter(self.infos())
        device = next(iter(self._local.values())).device
        for parameter in self._parameters:
            owner = self._owners[parameter.megatron]
            described = [next(infos) for _ in parameter.hf]
            if stage == owner:
                tensors = parameter.mapping.join(self._gather(self._local[parameter.megatron]))
            else:
                tensors = tuple(torch.empty(i.shape, dtype=i.dtype, device=device) for i in described)
            for info, tensor in zip(described, tensors, strict=True):
                tensor = tensor.detach().contiguous()
                if (everywhere and len(ranks) > 1) or (owner != 0 and self._rank == 0):
                    dist.broadcast(tensor, ranks[owner], group=group)
                yield info.name, tensor

    def _fill(self, parameter: Parameter, source: HFTensors, target: Tensor) -> None:
        shard = parameter.mapping.shard([source.view(n) for n in parameter.hf], self._rank, self._size)
        if shard.shape != target.shape:
            raise AssertionError(f"{parameter.megatron}: got {tuple(shard.shape)}, not {tuple(target.shape)}")
        with torch.no_grad():
            target.copy_(shard)

    def _gather(self, shard: Tensor) -> Tensor:
        """The shards of all tensor-parallel ranks, [ranks, ...], in one piece of memory."""
        if self._size == 1:
            return shard.detach()[None]
        shards = shard.new_empty((self._size, *shard.shape))
        group = parallel_state.get_tensor_model_parallel_group()
        dist.all_gather(list(shards.unbind()), shard.detach().contiguous(), group=group)
        return shards

    def _check_local_names(self) -> None:
        known = {p.megatron for p in self._parameters}
        unknown = set(self._local) - known - ({"output_layer.weight"} if self._tied_copy else set())
        if unknown:
            raise UserError(f"No mapping for Megatron parameters: {', '.join(sorted(unknown))}.")


def _parameters_by_global_name(module: ScoringGPTModel) -> dict[str, Tensor]:
    """This rank's parameters by name, with global instead of local layer indices."""
    named = {}
    for name, parameter in module.named_parameters():
        if name.startswith("decoder.layers."):
            index, rest = name.removeprefix("decoder.layers.").split(".", 1)
            name = f"decoder.layers.{module.decoder.layers[int(index)].layer_number - 1}.{rest}"
        named[name] = parameter
    return named


def _owners(local: dict[str, Tensor]) -> dict[str, int]:
    """The pipeline stage that holds each parameter; the first of two for a tied embedding."""
    stages: list[list[str]] = [[]] * parallel_state.get_pipeline_model_parallel_world_size()
    dist.all_gather_object(stages, list(local), group=parallel_state.get_pipeline_model_parallel_group())
    owners: dict[str, int] = {}
    for stage, names in enumerate(stages):
        for name in names:
            owners.setdefault(name, stage)
    return owners

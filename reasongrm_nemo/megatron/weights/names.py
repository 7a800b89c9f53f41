# SPDX-License-Identifier: Apache-2.0
"""Lists a whole model's parameters with their mappings, from what its family declares in `models`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from reasongrm_nemo.megatron.weights.mappings import (
    QKV,
    Box,
    FusedQKV,
    GateUp,
    Mapping,
    Replicated,
    RowParallel,
    Vocabulary,
)
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.models.decoder import Weight, WeightKind, outside
from reasongrm_nemo.models.tensor_info import TensorInfo


@dataclass(frozen=True)
class Parameter:
    """One parameter of a whole model.

    Attributes:
        mapping: mapping to Hugging Face tensors.
        layer: the layer's global index; None outside the layers.
        megatron: name in a GPTModel that holds every layer.
        hf: names of the tensors in the Hugging Face checkpoint.
    """

    mapping: Mapping
    layer: int | None
    megatron: str
    hf: tuple[str, ...]

    @property
    def place(self) -> Box:
        """The parameter's place in the stored tensor: its index among the stacked layers, or the whole."""
        return () if self.layer is None else ((self.layer, self.layer + 1),)

    def stored_shape(self, layers: int) -> tuple[int, ...]:
        """Shape of the stored tensor in a model of ``layers`` layers."""
        return self.mapping.shape if self.layer is None else (layers, *self.mapping.shape)

    @property
    def stored(self) -> str:
        """Key in a torch_dist checkpoint, which stacks all layers of one parameter in one tensor."""
        return "model." + self.mapping.megatron.replace("{layer}.", "")


def parameters(architecture: Architecture, fused_norms: bool = True) -> Iterator[Parameter]:
    """Every parameter of the model once, the layers first.

    Args:
        architecture: the model's shape.
        fused_norms: use Transformer Engine's names, which attach a norm to the projection after it.
            megatron-core stores these names for either kind of layers.
    """
    for layer in range(architecture.layers):
        for weight in architecture.family.layer(architecture):
            mapping = _mapping(weight, architecture, fused_norms)
            yield Parameter(mapping, layer, *mapping.at(layer))
    for weight in outside(architecture):
        mapping = _mapping(weight, architecture, fused_norms)
        yield Parameter(mapping, None, *mapping.at(0))


def tensor_infos(known: Iterable[Parameter], dtype: torch.dtype) -> list[TensorInfo]:
    """The Hugging Face tensors of the parameters, in their order."""
    return [
        TensorInfo(name, dtype, shape)
        for parameter in known
        for name, shape in zip(parameter.hf, parameter.mapping.shapes, strict=True)
    ]


def empty_objects(architecture: Architecture) -> list[str]:
    """Keys of the ``_extra_state`` that megatron-core's modules load along with their weights.

    It holds Transformer Engine's fp8 scales. Without fp8 there are none, but strict loading needs the keys.
    """
    keys: dict[str, None] = {}
    for parameter in parameters(architecture):
        module = parameter.stored.rpartition(".")[0]
        modules = [module]
        if module.endswith(".linear_qkv"):
            modules.append(module.replace(".linear_qkv", ".core_attention"))
        place = "0_1" if parameter.layer is None else f"{parameter.layer}_{architecture.layers}"
        keys |= {f"{name}._extra_state/shard_{place}": None for name in modules}
    return list(keys)


def _mapping(weight: Weight, a: Architecture, fused_norms: bool) -> Mapping:
    name = weight.megatron if fused_norms or weight.plain is None else weight.plain
    if weight.kind is WeightKind.QKV:
        return QKV(name, weight.hf, weight.shapes, groups=a.kv_heads)
    if weight.kind is WeightKind.FUSED_QKV:
        return FusedQKV(name, weight.hf, weight.shapes, groups=a.kv_heads, rows=a.qkv_rows)
    return _MAPPINGS[weight.kind](name, weight.hf, weight.shapes)


_MAPPINGS: dict[WeightKind, type[Mapping]] = {
    WeightKind.REPLICATED: Replicated,
    WeightKind.ROW: RowParallel,
    WeightKind.VOCABULARY: Vocabulary,
    WeightKind.GATE_UP: GateUp,
}

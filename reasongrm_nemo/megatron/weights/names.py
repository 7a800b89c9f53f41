# SPDX-License-Identifier: Apache-2.0
"""Which mappings make up a model: the one place where both sides' tensor names stand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from reasongrm_nemo.megatron.weights.mappings import (
    QKV,
    Box,
    GateUp,
    Mapping,
    Replicated,
    RowParallel,
    Vocabulary,
)
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.models.tensor_info import TensorInfo


@dataclass(frozen=True)
class Parameter:
    """One parameter of a whole model.

    Attributes:
        mapping: how it is made.
        layer: its layer's global index; None outside the layers.
        megatron: its name in a GPTModel that holds every layer.
        hf: its tensors' names in the Hugging Face checkpoint.
    """

    mapping: Mapping
    layer: int | None
    megatron: str
    hf: tuple[str, ...]

    @property
    def place(self) -> Box:
        """Where in the stored tensor it is: one index of the stacked layers, or all of it."""
        return () if self.layer is None else ((self.layer, self.layer + 1),)

    def stored_shape(self, layers: int) -> tuple[int, ...]:
        """Of the stored tensor of a model of so many layers."""
        return self.mapping.shape if self.layer is None else (layers, *self.mapping.shape)

    @property
    def stored(self) -> str:
        """Its key in a torch_dist checkpoint, where the layers of one kind are stacked in one tensor."""
        return "model." + self.mapping.megatron.replace("{layer}.", "")


def parameters(architecture: Architecture, fused_norms: bool = True) -> Iterator[Parameter]:
    """Every parameter of the model once, the layers first.

    Args:
        architecture: the model's shape.
        fused_norms: Transformer Engine's names, where a norm belongs to the projection after it. They are
            the ones megatron-core stores whatever the layers are made of.
    """
    for layer in range(architecture.layers):
        for mapping in _layer_mappings(architecture, fused_norms):
            yield Parameter(mapping, layer, *mapping.at(layer))
    for mapping in _outer_mappings(architecture):
        yield Parameter(mapping, None, *mapping.at(0))


def tensor_infos(known: Iterable[Parameter], dtype: torch.dtype) -> list[TensorInfo]:
    """The Hugging Face tensors of the parameters, in their order."""
    return [
        TensorInfo(name, dtype, shape)
        for parameter in known
        for name, shape in zip(parameter.hf, parameter.mapping.shapes, strict=True)
    ]


def empty_objects(architecture: Architecture) -> list[str]:
    """Keys of the ``_extra_state`` that megatron-core's modules load beside their weights.

    It holds Transformer Engine's fp8 scales; without fp8 there are none, but a strict load wants the keys.
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


EMBEDDING = "embedding.word_embeddings.weight"


def _outer_mappings(a: Architecture) -> Iterator[Mapping]:
    vocabulary = ((a.vocab, a.hidden),)
    yield Vocabulary(EMBEDDING, ("model.embed_tokens.weight",), vocabulary)
    yield Replicated("decoder.final_layernorm.weight", ("model.norm.weight",), ((a.hidden,),))
    if not a.tied:
        yield Vocabulary("output_layer.weight", ("lm_head.weight",), vocabulary)


def _layer_mappings(a: Architecture, fused_norms: bool) -> Iterator[Mapping]:
    ours, theirs = "decoder.layers.{layer}.", "model.layers.{layer}."
    attention = ours + "self_attention."
    if fused_norms:
        norms = ("self_attention.linear_qkv.layer_norm_weight", "mlp.linear_fc1.layer_norm_weight")
    else:
        norms = ("input_layernorm.weight", "pre_mlp_layernorm.weight")
    queries, keys = a.heads * a.head_dim, a.kv_heads * a.head_dim

    def projections(kind: str) -> tuple[str, ...]:
        return tuple(f"{theirs}self_attn.{p}_proj.{kind}" for p in "qkv")

    yield Replicated(ours + norms[0], (theirs + "input_layernorm.weight",), ((a.hidden,),))
    yield QKV(
        attention + "linear_qkv.weight",
        projections("weight"),
        ((queries, a.hidden), (keys, a.hidden), (keys, a.hidden)),
        groups=a.kv_heads,
    )
    if a.qkv_bias:
        shapes = ((queries,), (keys,), (keys,))
        yield QKV(attention + "linear_qkv.bias", projections("bias"), shapes, groups=a.kv_heads)
    if a.qk_norm:
        for p in "qk":
            name = f"{theirs}self_attn.{p}_norm.weight"
            yield Replicated(f"{attention}{p}_layernorm.weight", (name,), ((a.head_dim,),))
    yield RowParallel(
        attention + "linear_proj.weight", (theirs + "self_attn.o_proj.weight",), ((a.hidden, queries),)
    )
    yield Replicated(ours + norms[1], (theirs + "post_attention_layernorm.weight",), ((a.hidden,),))
    yield GateUp(
        ours + "mlp.linear_fc1.weight",
        (theirs + "mlp.gate_proj.weight", theirs + "mlp.up_proj.weight"),
        ((a.ffn, a.hidden), (a.ffn, a.hidden)),
    )
    yield RowParallel(
        ours + "mlp.linear_fc2.weight", (theirs + "mlp.down_proj.weight",), ((a.hidden, a.ffn),)
    )

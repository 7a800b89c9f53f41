# SPDX-License-Identifier: Apache-2.0
"""The weights of decoder layers: shapes, Hugging Face names, Megatron names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reasongrm_nemo.models.architecture import Architecture


class WeightKind(Enum):
    """How tensor-parallel ranks split a weight, and how Megatron arranges its Hugging Face tensors."""

    REPLICATED = auto()
    """The whole weight on every rank: norms."""
    ROW = auto()
    """Split along the input dimension."""
    VOCABULARY = auto()
    """Split along the vocabulary, which Megatron pads."""
    QKV = auto()
    """Query, key and value, which Megatron interleaves by key-value head."""
    FUSED_QKV = auto()
    """As QKV, but stacked in one Hugging Face tensor."""
    GATE_UP = auto()
    """Gate and up projections, in one Hugging Face tensor or two; both are split over the ranks."""


@dataclass(frozen=True)
class Weight:
    """One Megatron parameter, inside or outside the layers, and its Hugging Face tensors.

    Attributes:
        kind: see ``WeightKind``.
        megatron: name in a GPTModel with Transformer Engine's layers, where a norm is part of the projection
            after it; ``{layer}`` is the layer's index.
        hf: names in the Hugging Face checkpoint, with the same placeholder.
        shapes: shapes of the Hugging Face tensors, in the same order.
        plain: name in a GPTModel with plain PyTorch layers; None: same as ``megatron``.
    """

    kind: WeightKind
    megatron: str
    hf: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    plain: str | None = None

    @property
    def elements(self) -> int:
        """Number of elements in all tensors."""
        return sum(math.prod(shape) for shape in self.shapes)


EMBEDDING = "embedding.word_embeddings.weight"
OURS, THEIRS = "decoder.layers.{layer}.", "model.layers.{layer}."


def outside(a: Architecture) -> list[Weight]:
    """Embedding, final norm and, unless tied to the embedding, the output weight."""
    vocabulary = ((a.vocab, a.hidden),)
    weights = [
        Weight(WeightKind.VOCABULARY, EMBEDDING, ("model.embed_tokens.weight",), vocabulary),
        Weight(
            WeightKind.REPLICATED, "decoder.final_layernorm.weight", ("model.norm.weight",), ((a.hidden,),)
        ),
    ]
    if not a.tied:
        weights.append(Weight(WeightKind.VOCABULARY, "output_layer.weight", ("lm_head.weight",), vocabulary))
    return weights


def input_norm(a: Architecture) -> Weight:
    """The norm before attention."""
    return Weight(
        WeightKind.REPLICATED,
        OURS + "self_attention.linear_qkv.layer_norm_weight",
        (THEIRS + "input_layernorm.weight",),
        ((a.hidden,),),
        plain=OURS + "input_layernorm.weight",
    )


def qkv(a: Architecture) -> Weight:
    """Query, key and value projections, three tensors."""
    shapes = tuple((rows, a.hidden) for rows in a.qkv_rows)
    return Weight(WeightKind.QKV, OURS + "self_attention.linear_qkv.weight", _projections("weight"), shapes)


def qkv_bias(a: Architecture) -> Weight:
    """Biases of the query, key and value projections."""
    shapes = tuple((rows,) for rows in a.qkv_rows)
    return Weight(WeightKind.QKV, OURS + "self_attention.linear_qkv.bias", _projections("bias"), shapes)


def _projections(tensor: str) -> tuple[str, ...]:
    return tuple(f"{THEIRS}self_attn.{name}_proj.{tensor}" for name in "qkv")


def head_norm(a: Architecture, which: str) -> Weight:
    """The norm of each head's query (``q``) or key (``k``), after its projection and before the rope."""
    return Weight(
        WeightKind.REPLICATED,
        f"{OURS}self_attention.{which}_layernorm.weight",
        (f"{THEIRS}self_attn.{which}_norm.weight",),
        ((a.head_dim,),),
    )


def attention_output(a: Architecture) -> Weight:
    """Attention's output projection."""
    return Weight(
        WeightKind.ROW,
        OURS + "self_attention.linear_proj.weight",
        (THEIRS + "self_attn.o_proj.weight",),
        ((a.hidden, a.heads * a.head_dim),),
    )


def mlp_norm(a: Architecture) -> Weight:
    """The norm between attention and MLP."""
    return Weight(
        WeightKind.REPLICATED,
        OURS + "mlp.linear_fc1.layer_norm_weight",
        (THEIRS + "post_attention_layernorm.weight",),
        ((a.hidden,),),
        plain=OURS + "pre_mlp_layernorm.weight",
    )


def gate_up(a: Architecture) -> Weight:
    """SwiGLU's gate and up projections, two tensors."""
    return Weight(
        WeightKind.GATE_UP,
        OURS + "mlp.linear_fc1.weight",
        (THEIRS + "mlp.gate_proj.weight", THEIRS + "mlp.up_proj.weight"),
        ((a.ffn, a.hidden), (a.ffn, a.hidden)),
    )


def down(a: Architecture) -> Weight:
    """The MLP's output projection."""
    return Weight(
        WeightKind.ROW,
        OURS + "mlp.linear_fc2.weight",
        (THEIRS + "mlp.down_proj.weight",),
        ((a.hidden, a.ffn),),
    )

# SPDX-License-Identifier: Apache-2.0
"""Qwen3: queries and keys are normalised per head; heads x head_dim may exceed hidden_size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reasongrm_nemo.models import decoder
from reasongrm_nemo.models.family import Family

if TYPE_CHECKING:
    from reasongrm_nemo.models.architecture import Architecture


def _layer(a: Architecture) -> list[decoder.Weight]:
    return [
        decoder.input_norm(a),
        decoder.qkv(a),
        decoder.head_norm(a, "q"),
        decoder.head_norm(a, "k"),
        decoder.attention_output(a),
        decoder.mlp_norm(a),
        decoder.gate_up(a),
        decoder.down(a),
    ]


def _normalised(a: Architecture) -> int:
    return (a.heads + a.kv_heads) * a.head_dim


QWEN3 = Family(
    "qwen3",
    _layer,
    megatron={"qk_layernorm": True},
    kept_per_token=_normalised,
    # only read if use_sliding_window is true, which is refused
    unread=frozenset({"sliding_window"}),
    neutral={"qk_norm": (True,)},
)

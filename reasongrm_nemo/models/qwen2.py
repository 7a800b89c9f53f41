# SPDX-License-Identifier: Apache-2.0
"""Qwen2.5 and QwQ-32B: query, key and value projections have biases."""

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
        decoder.qkv_bias(a),
        decoder.attention_output(a),
        decoder.mlp_norm(a),
        decoder.gate_up(a),
        decoder.down(a),
    ]


QWEN2 = Family(
    "qwen2",
    _layer,
    megatron={"qkv_bias": True},
    # only read if use_sliding_window is true, which is refused
    unread=frozenset({"sliding_window"}),
    neutral={"qkv_bias": (True,)},
    wide_heads=False,  # vLLM's Qwen2 does not read head_dim
)

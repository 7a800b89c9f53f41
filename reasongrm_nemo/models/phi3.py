# SPDX-License-Identifier: Apache-2.0
"""Phi-4 (model_type phi3): query, key and value are one tensor, and so are gate and up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reasongrm_nemo.models import decoder
from reasongrm_nemo.models.decoder import OURS, THEIRS, Weight, WeightKind
from reasongrm_nemo.models.family import Family

if TYPE_CHECKING:
    from reasongrm_nemo.models.architecture import Architecture


def _layer(a: Architecture) -> list[Weight]:
    return [
        decoder.input_norm(a),
        Weight(
            WeightKind.FUSED_QKV,
            OURS + "self_attention.linear_qkv.weight",
            (THEIRS + "self_attn.qkv_proj.weight",),
            ((sum(a.qkv_rows), a.hidden),),
        ),
        decoder.attention_output(a),
        decoder.mlp_norm(a),
        Weight(
            WeightKind.GATE_UP,
            OURS + "mlp.linear_fc1.weight",
            (THEIRS + "mlp.gate_up_proj.weight",),
            ((2 * a.ffn, a.hidden),),
        ),
        decoder.down(a),
    ]


PHI3 = Family(
    "phi3",
    _layer,
    neutral={"sliding_window": (None,)},
    # only read for longrope, which is refused
    unread=frozenset({"original_max_position_embeddings"}),
    wide_heads=False,  # its config has no head_dim
    ropes=("default",),  # transformers 5 reads yarn as longrope, transformers 4 refuses yarn and linear
)

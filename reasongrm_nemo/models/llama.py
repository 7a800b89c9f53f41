# SPDX-License-Identifier: Apache-2.0
"""Llama 3.1 and SmolLM2: the plain decoder that other families extend."""

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
        decoder.attention_output(a),
        decoder.mlp_norm(a),
        decoder.gate_up(a),
        decoder.down(a),
    ]


LLAMA = Family("llama", _layer)

# SPDX-License-Identifier: Apache-2.0
"""Mistral without a sliding window (7B v0.3, Nemo 12B): Llama's layers."""

from __future__ import annotations

from reasongrm_nemo.models.family import Family
from reasongrm_nemo.models.llama import LLAMA

MISTRAL = Family(
    "mistral",
    LLAMA.layer,
    neutral={"sliding_window": (None,)},
    # transformers takes 4,096 and 8 where these are missing
    stated=("sliding_window", "num_key_value_heads"),
    # transformers 5 and vLLM take a Mistral that has it, even as null, for a Ministral
    absent=("layer_types",),
)

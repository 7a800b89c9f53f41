# SPDX-License-Identifier: Apache-2.0
"""Mistral without a sliding window (7B v0.3, Nemo 12B): the same layers as Llama."""

from __future__ import annotations

from reasongrm_nemo.models.family import Family
from reasongrm_nemo.models.llama import LLAMA

MISTRAL = Family(
    "mistral",
    LLAMA.layer,
    neutral={"sliding_window": (None,)},
    # if these are missing, transformers uses 4,096 and 8
    stated=("sliding_window", "num_key_value_heads"),
    # with this key, even as null, transformers 5 and vLLM read a Mistral as a Ministral
    absent=("layer_types",),
)

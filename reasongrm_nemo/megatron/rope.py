# SPDX-License-Identifier: Apache-2.0
"""Rope in Megatron's model: the frequencies of every kind, which megatron-core 0.12's GPTModel lacks."""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from reasongrm_nemo.models.rope import Rope

_LENGTHS = 4


def inverse_frequencies(rope: Rope, head_dim: int) -> Tensor:
    """Angle per position of each pair of a head's dimensions: fp32 [head_dim / 2].

    Written out in fp32 in the order transformers computes it (modeling_rope_utils.py), so that not even
    the last bit differs: at position 65,536 it would be seen.
    """
    pairs = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    plain = 1.0 / (rope.theta**pairs)
    if rope.kind == "linear":
        return plain / rope.factor
    if rope.kind == "llama3":
        return _llama3(rope, plain)
    if rope.kind == "yarn":
        return _yarn(rope, rope.theta**pairs, head_dim)
    return plain


def _llama3(rope: Rope, plain: Tensor) -> Tensor:
    """Llama 3.1: long waves are stretched, short ones are not, those between in part."""
    long, short = rope.original / rope.low_freq_factor, rope.original / rope.high_freq_factor
    wave = 2 * math.pi / plain
    stretched = torch.where(wave > long, plain / rope.factor, plain)
    share = (rope.original / wave - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    between = (1 - share) * stretched / rope.factor + share * stretched
    return torch.where((wave < short) | (wave > long), stretched, between)


def _yarn(rope: Rope, bases: Tensor, head_dim: int) -> Tensor:
    """YaRN (Peng et al. 2023, section 3.2): a ramp between stretched and plain frequencies."""

    def dimension(rotations: float) -> float:
        return (head_dim * math.log(rope.original / (rotations * 2 * math.pi))) / (2 * math.log(rope.theta))

    low = max(math.floor(dimension(rope.beta_fast)), 0)
    high = min(math.ceil(dimension(rope.beta_slow)), head_dim - 1)
    width = high - low or 0.001
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    plain, stretched = 1.0 / bases, 1.0 / (rope.factor * bases)
    return stretched * (1 - (1 - ramp)) + plain * (1 - ramp)


def softmax_scale(rope: Rope, head_dim: int) -> float | None:
    """What attention scores are multiplied by; None for the usual 1 / sqrt(head_dim).

    YaRN multiplies sines and cosines by its attention factor, so scores by its square.
    """
    return None if rope.attention_factor == 1.0 else rope.attention_factor**2 / math.sqrt(head_dim)


def apply_rope(model: Any, rope: Rope, head_dim: int) -> None:
    """Give ``model``, a GPTModel on any pipeline stage, its frequencies; before its first forward."""
    embedding = model.rotary_pos_emb
    embedding.inv_freq = inverse_frequencies(rope, head_dim).to(embedding.inv_freq.device)
    # megatron-core keeps the angles of 32 lengths; ours differ from micro-batch to micro-batch, and those of
    # 65,536 positions take 32 MiB. As many are of use as micro-batches are under way in a pipeline.
    plain = partial(type(embedding).forward.__wrapped__, embedding)
    embedding.forward = lru_cache(maxsize=_LENGTHS)(plain)

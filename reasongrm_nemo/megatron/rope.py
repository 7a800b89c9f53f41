# SPDX-License-Identifier: Apache-2.0
"""Rope frequencies for Megatron's model: kinds that megatron-core 0.12's GPTModel does not support."""

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

    Computed in fp32 in the same order as transformers (modeling_rope_utils.py) to match every bit; at
    position 65,536 a difference in the last bit would be noticeable.
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
    """Llama 3.1: stretches long wavelengths, keeps short ones, interpolates in between."""
    long, short = rope.original / rope.low_freq_factor, rope.original / rope.high_freq_factor
    wave = 2 * math.pi / plain
    stretched = torch.where(wave > long, plain / rope.factor, plain)
    share = (rope.original / wave - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    between = (1 - share) * stretched / rope.factor + share * stretched
    return torch.where((wave < short) | (wave > long), stretched, between)


def _yarn(rope: Rope, bases: Tensor, head_dim: int) -> Tensor:
    """YaRN (Peng et al. 2023, section 3.2): interpolates between stretched and plain frequencies."""

    def dimension(rotations: float) -> float:
        return (head_dim * math.log(rope.original / (rotations * 2 * math.pi))) / (2 * math.log(rope.theta))

    low = max(math.floor(dimension(rope.beta_fast)), 0)
    high = min(math.ceil(dimension(rope.beta_slow)), head_dim - 1)
    width = high - low or 0.001
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    plain, stretched = 1.0 / bases, 1.0 / (rope.factor * bases)
    return stretched * (1 - (1 - ramp)) + plain * (1 - ramp)


def softmax_scale(rope: Rope, head_dim: int) -> float | None:
    """Factor of attention scores; None for the usual 1 / sqrt(head_dim).

    YaRN multiplies sines and cosines by its attention factor, which multiplies scores by its square.
    """
    return None if rope.attention_factor == 1.0 else rope.attention_factor**2 / math.sqrt(head_dim)


def apply_rope(model: Any, rope: Rope, head_dim: int) -> None:
    """Set the rope frequencies of a GPTModel on any pipeline stage; call before its first forward."""
    embedding = model.rotary_pos_emb
    embedding.inv_freq = inverse_frequencies(rope, head_dim).to(embedding.inv_freq.device)
    # megatron-core caches the angles of 32 lengths, and those of 65,536 positions take 32 MiB. Lengths vary
    # between micro-batches here, so cache only about as many as are in flight in a pipeline.
    plain = partial(type(embedding).forward.__wrapped__, embedding)
    embedding.forward = lru_cache(maxsize=_LENGTHS)(plain)

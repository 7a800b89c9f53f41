# SPDX-License-Identifier: Apache-2.0
"""Disk that a recipe's artefact will take."""

from __future__ import annotations

from omegaconf import DictConfig

from reasongrm_nemo.architecture import Architecture


def parameters(shape: Architecture) -> int:
    """How many the model has."""
    heads, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = shape.hidden * (2 * heads + 2 * kv)
    bias = heads + 2 * kv if shape.qkv_bias else 0
    norms = 2 * shape.hidden + (2 * shape.head_dim if shape.qk_norm else 0)
    layer = attention + bias + 3 * shape.hidden * shape.ffn + norms
    ends = shape.vocab * shape.hidden * (1 if shape.tied else 2) + shape.hidden
    return shape.layers * layer + ends


def training_bytes(cfg: DictConfig, count: int) -> tuple[int, int]:
    """What one checkpoint takes, and what the whole run needs at its fullest moment.

    A bf16 checkpoint holds the weights and 12 bytes a parameter of optimizer (fp32 weights and Adam's two
    moments), an fp32 one the weights and 8. Before the oldest is removed there is one more than are kept.

    Args:
        cfg: a recipe of stage grpo or sft.
        count: the model's parameters.
    """
    weight = 2 if cfg.model.dtype == "bf16" else 4
    one = count * (weight + (12 if weight == 2 else 8))
    kept = cfg[cfg.stage].keep_checkpoints + cfg.checkpoints.keep_best + 1
    return one, kept * one + count * weight

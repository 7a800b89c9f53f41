# SPDX-License-Identifier: Apache-2.0
"""Checks of a recipe against the checkpoint it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from reasongrm_nemo import rope
from reasongrm_nemo.architecture import Architecture, Layout
from reasongrm_nemo.errors import UserError


def check_model(cfg: DictConfig, hf_config: Mapping[str, Any], where: str) -> None:
    """What a checkpoint's config.json must agree with, known once the checkpoint is there.

    Args:
        cfg: the recipe.
        hf_config: the parsed config.json.
        where: its path, for the message.

    Raises:
        UserError: naming the recipe's key and the checkpoint's figure.
    """
    architecture = hf_config.get("model_type")
    if cfg.model.architecture is not None and architecture != cfg.model.architecture:
        raise UserError(f"model.architecture is {cfg.model.architecture}, but {where} says {architecture}")
    stated = {**hf_config, **rope.overrides(hf_config, cfg.model.rope)}
    limit = stated.get("max_position_embeddings", 0)
    if limit and cfg.model.max_model_len > limit:
        raise UserError(
            f"model.max_model_len is {cfg.model.max_model_len}, past "
            f"max_position_embeddings {limit} of {where} (model.rope can extend it)"
        )
    heads = hf_config.get("num_attention_heads", 0)
    kv_heads, ffn = hf_config.get("num_key_value_heads") or heads, hf_config.get("intermediate_size", 0)
    layout = Layout.of_cluster(cfg.cluster)
    if name := layout.undivided(heads, kv_heads, ffn):
        raise UserError(
            f"cluster.tensor_parallel is {layout.tensor}, which does not divide {name} of {where}"
        )
    if layout.stages(hf_config.get("num_hidden_layers", 0)) is None:
        raise UserError(
            f"cluster.pipeline_parallel is {layout.pipeline}, which does not divide "
            f"num_hidden_layers {hf_config.get('num_hidden_layers')} of {where}"
        )
    # what is only served may be any model that vLLM knows
    if cfg.stage in ("grpo", "sft"):
        Architecture.from_config(hf_config, where, cfg.model.rope)

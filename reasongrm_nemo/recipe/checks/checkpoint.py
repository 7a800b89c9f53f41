# SPDX-License-Identifier: Apache-2.0
"""Checks of a recipe against the checkpoint it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models import rope
from reasongrm_nemo.models.architecture import Architecture, Layout
from reasongrm_nemo.stage_kinds import kind_of

_SIZES = (
    "max_position_embeddings",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "vocab_size",
)


def check_model(cfg: DictConfig, hf_config: Mapping[str, Any], where: str) -> None:
    """Check the recipe against the model's config.json.

    Args:
        cfg: the recipe.
        hf_config: the parsed config.json.
        where: its path, for the message.

    Raises:
        UserError: names the key of the recipe and the value in config.json.
    """
    if not isinstance(hf_config, Mapping):
        raise UserError(f"{where} is no mapping of keys; it must be a model's config.json")
    trained = kind_of(cfg).trains
    for key in _SIZES:
        value = hf_config.get(key)
        # a model that is only served may be any that vLLM knows, e.g. with a size per layer
        per_layer = isinstance(value, list) and not trained and key != "max_position_embeddings"
        known = value is None or per_layer
        if not known and (type(value) is not int or value < 1):
            raise UserError(f"{where}: {key} is {value!r}; it must be a whole number from 1")
    rope.check_types(hf_config, where)
    architecture = hf_config.get("model_type")
    if cfg.model.architecture is not None and architecture != cfg.model.architecture:
        raise UserError(f"model.architecture is {cfg.model.architecture}, but {where} says {architecture}")
    limit = rope.reach(cfg.model.rope) or hf_config.get("max_position_embeddings")
    if limit and cfg.model.max_model_len > limit:
        raise UserError(
            f"model.max_model_len is {cfg.model.max_model_len}, past "
            f"max_position_embeddings {limit} of {where} (model.rope can extend it)"
        )
    _check_workers(cfg, hf_config, where)
    if not trained:
        return
    heads = hf_config.get("num_attention_heads") or 0
    kv_heads, ffn = hf_config.get("num_key_value_heads") or heads, hf_config.get("intermediate_size") or 0
    layout, layers = Layout.of_cluster(cfg.cluster), hf_config.get("num_hidden_layers") or 0
    if name := layout.undivided(heads, kv_heads, ffn):
        raise UserError(
            f"cluster.tensor_parallel is {layout.tensor}, which does not divide {name} of {where}"
        )
    if layout.stages(layers) is None:
        names = ("layers_in_first_stage", "layers_in_last_stage")
        if ends := [f"cluster.{name} is {cfg.cluster[name]}" for name in names if cfg.cluster[name]]:
            raise UserError(
                f"{' and '.join(ends)}: the rest of num_hidden_layers {layers} of {where} does not come out "
                f"over the other stages of cluster.pipeline_parallel {layout.pipeline}"
            )
        raise UserError(
            f"cluster.pipeline_parallel is {layout.pipeline}, which does not divide "
            f"num_hidden_layers {layers} of {where}"
        )
    Architecture.from_config(hf_config, where, cfg.model.rope)


def _check_workers(cfg: DictConfig, hf_config: Mapping[str, Any], where: str) -> None:
    """Check that vLLM can shard the model over the workers of a rollout server."""
    workers = cfg.rollout.tensor_parallel
    sizes = [hf_config.get(f"num_{kind}_heads") for kind in ("attention", "key_value")]
    if not kind_of(cfg).samples or type(sizes[0]) is not int:
        return
    kv_heads, ffn = sizes[1] if type(sizes[1]) is int else sizes[0], hf_config.get("intermediate_size")
    if why := workers_refused(workers, sizes[0], kv_heads, ffn if type(ffn) is int else 0, where):
        raise UserError(f"rollout.tensor_parallel is {workers}, which {why}")


def workers_refused(workers: int, heads: int, kv_heads: int, ffn: int, where: str = "it") -> str | None:
    """Why vLLM cannot shard a model of these sizes over so many workers, or None.

    Args:
        workers: of one rollout server.
        heads: num_attention_heads.
        kv_heads: num_key_value_heads.
        ffn: intermediate_size.
        where: the model's config.json, for the message.
    """
    if heads % workers:
        return f"does not divide num_attention_heads {heads} of {where}"
    if kv_heads % workers and workers % kv_heads:
        return f"neither divides num_key_value_heads {kv_heads} of {where} nor is divided by it"
    return f"does not divide intermediate_size {ffn} of {where}" if ffn % workers else None

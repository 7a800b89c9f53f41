# SPDX-License-Identifier: Apache-2.0
"""Checks of a recipe before anything heavy starts; every error names the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models import rope
from reasongrm_nemo.processes.secret_values import has_password
from reasongrm_nemo.recipe.checks.judges import check_judge_form, check_templates
from reasongrm_nemo.recipe.checks.refusal import Refuse, origin_of
from reasongrm_nemo.recipe.checks.sampling import check_sampling
from reasongrm_nemo.recipe.checks.sampling_stages import (
    check_evaluate,
    check_mine,
    check_prepare,
    check_shards,
)
from reasongrm_nemo.recipe.checks.servers import check_servers
from reasongrm_nemo.recipe.checks.training_stages import check_grpo, check_long_run, check_sft
from reasongrm_nemo.recipe.checks.values import check_values
from reasongrm_nemo.stage_kinds import kind_of

_OF_BLOCK = {
    "prepare": check_prepare,
    "grpo": check_grpo,
    "sft": check_sft,
    "mine": check_mine,
    "evaluate": check_evaluate,
}


def check_recipe(cfg: DictConfig, recipe: str, origin: Mapping[str, str]) -> None:
    """Check everything that the recipe alone decides.

    Args:
        cfg: the resolved recipe.
        recipe: its path, for the message.
        origin: dotted key -> "file:line" where its value was set last.

    Raises:
        UserError: describes the first mistake.
    """

    def refuse(key: str, why: str) -> NoReturn:
        raise UserError(f"{origin_of(key, origin, recipe)}: {key} {why}")

    _check_secrets(cfg, refuse)
    check_values(cfg, refuse)
    check_judge_form(cfg, refuse)
    _check_lengths(cfg, refuse)
    _check_rope(cfg.model, refuse)
    _check_megatron(cfg, refuse)
    _check_cluster(cfg, refuse)
    check_servers(cfg, refuse)
    check_sampling(cfg, refuse)
    if kind_of(cfg).trains:
        check_long_run(cfg, refuse)
    if kind_of(cfg).sharded:
        check_shards(cfg, refuse)
    if check := _OF_BLOCK.get(cfg.stage):
        check(cfg, refuse)
    check_templates(cfg, refuse)


def _check_secrets(cfg: DictConfig, refuse: Refuse) -> None:
    """Refuse passwords in URLs: recipes are copied into manifests and logs, except rollout.extra_env."""

    def look(key: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, below in value.items():
                look(f"{key}.{name}" if key else str(name), below)
        elif isinstance(value, list):
            for index, below in enumerate(value):
                look(f"{key}[{index}]", below)
        elif isinstance(value, str) and has_password(value) and not key.startswith("rollout.extra_env."):
            refuse(
                key,
                "has a name or password in its URL, and a recipe is copied into manifests and logs: leave "
                "it out, and give it by the environment (MLFLOW_TRACKING_USERNAME and _PASSWORD, HF_TOKEN)",
            )

    look("", OmegaConf.to_container(cfg))


def _check_lengths(cfg: DictConfig, refuse: Refuse) -> None:
    room = cfg.judge.max_prompt_tokens + cfg.rollout.max_response_tokens
    if kind_of(cfg).samples and room > cfg.model.max_model_len:
        refuse(
            "model.max_model_len",
            f"is {cfg.model.max_model_len}, less than "
            f"judge.max_prompt_tokens {cfg.judge.max_prompt_tokens} + "
            f"rollout.max_response_tokens {cfg.rollout.max_response_tokens} = {room}",
        )


def _check_rope(model: DictConfig, refuse: Refuse) -> None:
    scaling = model.rope
    if scaling.type is None:
        return
    for key in ("factor", "original_max_position_embeddings"):
        if scaling[key] is None:
            refuse(f"model.rope.{key}", f"is null; model.rope.type {scaling.type} needs it")
    reach = rope.reach(scaling)
    if reach and model.max_model_len > reach:
        refuse(
            "model.max_model_len",
            f"is {model.max_model_len}, past the {reach} positions that model.rope gives "
            f"(its factor {scaling.factor} × {scaling.original_max_position_embeddings})",
        )


def _check_megatron(cfg: DictConfig, refuse: Refuse) -> None:
    if cfg.model.megatron_path is not None and not kind_of(cfg).trains:
        refuse(
            "model.megatron_path",
            f"is {cfg.model.megatron_path}, but stage {cfg.stage} reads model.hf_path alone; leave it null",
        )


def _check_cluster(cfg: DictConfig, refuse: Refuse) -> None:
    cluster = cfg.cluster
    world = cluster.nodes * cluster.devices_per_node
    trained = kind_of(cfg).trains  # other stages ignore the trainer's layout
    if trained and world % (cluster.tensor_parallel * cluster.pipeline_parallel):
        refuse(
            "cluster.tensor_parallel",
            f"{cluster.tensor_parallel} × cluster.pipeline_parallel {cluster.pipeline_parallel} does not "
            f"divide the {world} devices "
            f"(cluster.nodes {cluster.nodes} × cluster.devices_per_node {cluster.devices_per_node})",
        )
    if trained and cluster.sequence_parallel and cluster.tensor_parallel == 1:
        refuse(
            "cluster.sequence_parallel", "is true with cluster.tensor_parallel 1; it needs tensor parallelism"
        )
    if cluster.platform == "cpu" and cluster.weight_transfer != "gloo":
        refuse(
            "cluster.weight_transfer",
            f"is {cluster.weight_transfer} on cluster.platform cpu; only gloo works there",
        )
    if cluster.platform == "cpu" and cluster.offload_optimizer:
        refuse("cluster.offload_optimizer", "is true on cluster.platform cpu; it only exists on GPUs")
    if cluster.platform == "gpu" and trained and cfg.model.dtype != "bf16":
        refuse(
            "model.dtype",
            f"is {cfg.model.dtype} on cluster.platform gpu; its optimizer needs bf16 (it keeps fp32 copies)",
        )

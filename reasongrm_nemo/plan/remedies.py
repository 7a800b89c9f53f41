# SPDX-License-Identifier: Apache-2.0
"""Changes of a recipe that may make it fit, as keys and values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.models.architecture import Architecture, Layout
from reasongrm_nemo.plan import memory
from reasongrm_nemo.recipe.checks.checkpoint import workers_refused
from reasongrm_nemo.stage_kinds import kind_of

_UNEVEN = ("cluster.layers_in_first_stage", "cluster.layers_in_last_stage")
_SHORTEST = 16384  # the shortest sequence length worth proposing


def asleep(recipe: Any) -> list[dict[str, Any]]:
    """Let servers sleep during training, if allowed and not set."""
    if (
        not kind_of(recipe).on_policy
        or recipe.rollout.sleep
        or recipe.grpo.max_lag
        or not memory.shares_gpus(recipe)
    ):
        return []
    return [{"rollout.sleep": True}]


def wider(recipe: Any, architecture: Architecture) -> Iterator[dict[str, Any]]:
    """Larger rollout tensor parallelism, with as many servers as fit."""
    rollout, devices = recipe.rollout, recipe.cluster.devices_per_node
    nodes = rollout.nodes or recipe.cluster.nodes
    sizes = architecture.heads, architecture.kv_heads, architecture.ffn
    for workers in range(rollout.tensor_parallel + 1, 1 if rollout.gpus else devices + 1):
        if workers_refused(workers, *sizes) is None:
            servers = min(rollout.servers, nodes * (devices // workers))
            words = {"rollout.tensor_parallel": workers}
            yield words if servers == rollout.servers else {**words, "rollout.servers": servers}


def shorter(recipe: Any) -> Iterator[dict[str, Any]]:
    """Shorter sequences."""
    full = recipe.model.max_model_len
    while full > _SHORTEST:
        full //= 2
        words = {"model.max_model_len": full}
        if kind_of(recipe).trains:
            words[f"{recipe.stage}.max_tokens_per_micro_batch"] = full
        if kind_of(recipe).samples:
            words["rollout.max_response_tokens"] = full - recipe.judge.max_prompt_tokens
        yield words


def changed(recipe: DictConfig, changes: Mapping[str, Any]) -> DictConfig:
    """A copy of the recipe with some keys changed; not checked."""
    other: DictConfig = OmegaConf.create(OmegaConf.to_container(recipe))  # type: ignore[assignment]
    for key, value in changes.items():
        OmegaConf.update(other, key, value)
    return other


def of_trainer(recipe: DictConfig, architecture: Architecture) -> Iterator[dict[str, Any]]:
    """Changes for the trainer, cheapest first."""
    cluster, stage = recipe.cluster, recipe.stage
    cheap: list[dict[str, Any]] = []
    budget = f"{stage}.max_tokens_per_micro_batch"
    full = recipe.model.max_model_len
    if kind_of(recipe).on_policy:
        full = recipe.judge.max_prompt_tokens + recipe.rollout.max_response_tokens
    if recipe[stage].max_tokens_per_micro_batch > full:
        cheap.append({budget: full})
    if cluster.tensor_parallel > 1 and not cluster.sequence_parallel:
        cheap.append({"cluster.sequence_parallel": True})
    if recipe.model.log_prob_chunk > 1024:
        cheap.append({"model.log_prob_chunk": 1024})
    if recipe.model.recompute == "none":
        cheap.append({"model.recompute": "full"})
    yield from cheap
    together = {key: value for change in reversed(cheap) for key, value in change.items()}
    if len(cheap) > 1:
        yield together
    for tensor, pipeline in layouts(recipe, architecture):
        if tensor * pipeline > cluster.tensor_parallel * cluster.pipeline_parallel:
            words: dict[str, Any] = {}
            if tensor != cluster.tensor_parallel:
                words["cluster.tensor_parallel"] = tensor
            if pipeline != cluster.pipeline_parallel:
                words["cluster.pipeline_parallel"] = pipeline
                words |= {key: None for key in _UNEVEN if OmegaConf.select(recipe, key) is not None}
            if tensor > 1:
                words["cluster.sequence_parallel"] = True
            yield {**words, **together}
    for words in shorter(recipe):
        yield {**words, **{key: value for key, value in together.items() if key not in words}}


def layouts(recipe: Any, architecture: Architecture) -> list[tuple[int, int]]:
    """(tensor, pipeline) parallel sizes that divide cluster and model; tensor within a node."""
    cluster = recipe.cluster
    world = cluster.nodes * cluster.devices_per_node
    sizes = [
        (tensor, pipeline)
        for tensor in range(1, cluster.devices_per_node + 1)
        for pipeline in range(1, min(world, architecture.layers) + 1)
        if world % (tensor * pipeline) == 0
        and cluster.devices_per_node % tensor == 0
        and Layout(tensor, pipeline).fits(architecture)
    ]
    return sorted(sizes, key=lambda pair: (pair[0] * pair[1], pair[1]))

# SPDX-License-Identifier: Apache-2.0
"""What of a recipe does not fit its cluster, and which key would make it fit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.architecture import Architecture, Layout
from reasongrm_nemo.placement import servers_per_node
from reasongrm_nemo.plan import memory, storage
from reasongrm_nemo.plan.serving import GIB, Server, server
from reasongrm_nemo.plan.times import stated_lengths

SERVED = ("grpo", "generate", "mine", "evaluate")
TRAINED = ("grpo", "sft")
_UNEVEN = ("cluster.layers_in_first_stage", "cluster.layers_in_last_stage")
_SHORTEST = 16384  # tokens that are still worth proposing


@dataclass(frozen=True)
class Misfit:
    """Something that does not fit.

    Attributes:
        key: the recipe's key to change.
        sentence: what does not fit, and what to do; begins with the key.
    """

    key: str
    sentence: str


def misfits(recipe: DictConfig, architecture: Architecture) -> list[Misfit]:
    """All that does not fit: GPU memory at each moment, the servers, host memory, disk.

    Args:
        recipe: resolved and checked.
        architecture: shape of its model, which the layout divides.
    """
    return list(_misfits(recipe, architecture))


def _misfits(recipe: DictConfig, architecture: Architecture) -> Iterator[Misfit]:
    serving = server(recipe, architecture) if recipe.stage in SERVED else None
    if serving is not None:
        yield from _of_server(recipe, architecture, serving)
    trained = memory.ranks(recipe, architecture) if recipe.stage in TRAINED else []
    if recipe.plan.device_memory_gib and recipe.cluster.platform == "gpu":
        yield from _of_devices(recipe, architecture, trained, serving)
    needed = sum(memory.host_bytes(recipe, trained).values())
    if recipe.plan.host_memory_gib and needed > recipe.plan.host_memory_gib * GIB:
        key = "checkpoints.asynchronous"
        if recipe.cluster.offload_optimizer and not recipe.checkpoints.asynchronous:
            key = "cluster.offload_optimizer"
        yield Misfit(
            key,
            f"{key} is {_word(OmegaConf.select(recipe, key))}: a node would need {needed / GIB:.0f} GiB of "
            f"its {recipe.plan.host_memory_gib:.0f} GiB (plan.host_memory_gib); set it to false",
        )
    disk = sum(storage.disk_bytes(recipe, architecture, _mean_response(recipe)).values())
    if recipe.plan.disk_gib is not None and disk > recipe.plan.disk_gib * GIB:
        key = f"{recipe.stage}.keep_checkpoints" if trained else "plan.disk_gib"
        yield Misfit(
            key,
            f"{key} is {OmegaConf.select(recipe, key)}: the artefact would take {disk / GIB:,.0f} GiB of the "
            f"{recipe.plan.disk_gib:,.0f} GiB of plan.disk_gib; keep fewer, or free space",
        )


def _mean_response(recipe: Any) -> float:
    return float(stated_lengths(recipe).draw(4096, 1, 0).mean())


def _of_server(recipe: Any, architecture: Architecture, serving: Server) -> Iterator[Misfit]:
    own, cluster = recipe.rollout, recipe.cluster
    key, workers = "rollout.tensor_parallel", own.tensor_parallel
    if architecture.heads % workers:
        yield Misfit(
            key, f"{key} is {workers}, which does not divide num_attention_heads {architecture.heads}"
        )
        return
    heads = architecture.kv_heads
    if heads % workers and workers % heads:
        yield Misfit(
            key, f"{key} is {workers}, which neither divides num_key_value_heads {heads} nor is divided by it"
        )
        return
    needed = servers_per_node(recipe) * workers
    if cluster.platform == "gpu" and not own.gpus and needed > cluster.devices_per_node:
        yield Misfit(
            "rollout.servers",
            f"rollout.servers is {own.servers}: with rollout.tensor_parallel {workers} those of a node need "
            f"{needed} GPUs, it has cluster.devices_per_node {cluster.devices_per_node}",
        )
    if cluster.platform == "gpu" and not recipe.plan.device_memory_gib:
        return
    longest = recipe.model.max_model_len
    if serving.tokens >= longest:
        return
    held = f"a server holds the keys and values of {serving.tokens:,} tokens, not of one full sequence of"
    if cluster.platform == "cpu":
        needed = math.ceil(longest * serving.kv_token * workers / GIB * 100) / 100
        yield Misfit(
            "rollout.kv_cache_gib",
            f"rollout.kv_cache_gib is {own.kv_cache_gib}: {held} model.max_model_len {longest:,}; "
            f"that takes {needed:.2f} GiB",
        )
        return
    short = longest * serving.kv_token - serving.kv_cache
    share = own.gpu_memory_utilization + short / (recipe.plan.device_memory_gib * GIB)
    key = "rollout.gpu_memory_utilization" if share <= 0.95 else "rollout.tensor_parallel"
    advice = f"{share + 0.005:.2f} would do" if share <= 0.95 else "share the model among more GPUs"
    yield Misfit(
        key,
        f"{key} is {OmegaConf.select(recipe, key)}: {held} model.max_model_len {longest:,} (weights "
        f"{serving.weights / GIB:.1f} GiB, left for keys and values {serving.kv_cache / GIB:.1f} of "
        f"{serving.share / GIB:.1f}); {advice}",
    )


def _of_devices(
    recipe: DictConfig, architecture: Architecture, trained: list[memory.Rank], serving: Server | None
) -> Iterator[Misfit]:
    room = (recipe.plan.device_memory_gib - recipe.plan.reserve_gib) * GIB
    found = memory.moments(recipe, trained, serving)
    if found.get("training", 0) > room:
        yield _of_training(recipe, architecture, trained, found["training"], room)
    for moment, needed in found.items():
        if needed > room and moment != "training" and trained and serving is not None:
            key = "rollout.gpu_memory_utilization"
            share = recipe.rollout.gpu_memory_utilization - (needed - room) / (
                recipe.plan.device_memory_gib * GIB
            )
            advice = (
                f"{int(share * 100) / 100:.2f} would do" if share > 0 else "share the model among more GPUs"
            )
            yield Misfit(
                key,
                f"{key} is {recipe.rollout.gpu_memory_utilization}: {_at(moment)} a GPU would hold "
                f"{needed / GIB:.1f} GiB, a server's and a trainer's, of {room / GIB:.1f}; {advice}",
            )
            return


def _at(moment: str) -> str:
    return {"start": "when the trainer starts (or resumes) beside it", "rollouts": "during rollouts"}[moment]


def _of_training(
    recipe: DictConfig, architecture: Architecture, trained: list[memory.Rank], needed: int, room: float
) -> Misfit:
    worst = max(trained, key=lambda rank: rank.peak)
    held = (
        f"a step takes {needed / GIB:.1f} GiB of the {room / GIB:.1f} that a GPU has for it (pipeline stage "
        f"{worst.stage}: states {worst.states.total / GIB:.1f}, activations "
        f"{sum(worst.activations.values()) / GIB:.1f})"
    )
    for changes in _remedies(recipe, architecture):
        other = changed(recipe, changes)
        peak = max(rank.peak for rank in memory.ranks(other, architecture))
        if needed - max(rank.peak for rank in trained) + peak <= room:
            words = " ".join(f"{key}={_word(value)}" for key, value in changes.items())
            key = next(iter(changes))
            return Misfit(
                key,
                f"{key} is {_word(OmegaConf.select(recipe, key))}: {held}; {words} would bring that to "
                f"{(needed - worst.peak + peak) / GIB:.1f}",
            )
    return Misfit("cluster.nodes", f"cluster.nodes is {recipe.cluster.nodes}: {held}; take more")


def _word(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def changed(recipe: DictConfig, changes: Mapping[str, Any]) -> DictConfig:
    """The recipe with some keys changed; not checked."""
    other: DictConfig = OmegaConf.create(OmegaConf.to_container(recipe))  # type: ignore[assignment]
    for key, value in changes.items():
        OmegaConf.update(other, key, value)
    return other


def _remedies(recipe: DictConfig, architecture: Architecture) -> Iterator[dict[str, Any]]:
    """Changes worth trying, the cheapest first."""
    cluster, stage = recipe.cluster, recipe.stage
    cheap: list[dict[str, Any]] = []
    budget = f"{stage}.max_tokens_per_micro_batch"
    full = recipe.model.max_model_len
    if stage == "grpo":
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
    together = {key: value for each in reversed(cheap) for key, value in each.items()}
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
    while full > _SHORTEST:
        full //= 2
        words = {"model.max_model_len": full, budget: full}
        if stage == "grpo":
            words["rollout.max_response_tokens"] = full - recipe.judge.max_prompt_tokens
        yield {**words, **together}


def layouts(recipe: Any, architecture: Architecture) -> list[tuple[int, int]]:
    """(tensor, pipeline) parallel sizes that divide cluster and model; tensor stays within a node."""
    cluster = recipe.cluster
    world = cluster.nodes * cluster.devices_per_node
    found = []
    for tensor in range(1, cluster.devices_per_node + 1):
        for pipeline in range(1, min(world, architecture.layers) + 1):
            layout = Layout(tensor, pipeline)
            fits = layout.undivided(architecture.heads, architecture.kv_heads, architecture.ffn) is None
            if (
                world % (tensor * pipeline) == 0
                and cluster.devices_per_node % tensor == 0
                and fits
                and layout.stages(architecture.layers) is not None
            ):
                found.append((tensor, pipeline))
    return sorted(found, key=lambda each: (each[0] * each[1], each[1]))

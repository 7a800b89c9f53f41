# SPDX-License-Identifier: Apache-2.0
"""What of a recipe does not fit its cluster, and which key would make it fit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.models.architecture import Architecture, Layout
from reasongrm_nemo.plan import memory, storage
from reasongrm_nemo.plan.serving import GIB, Server, server
from reasongrm_nemo.plan.times import stated_lengths
from reasongrm_nemo.stage_kinds import kind_of

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
    serving = server(recipe, architecture) if kind_of(recipe).samples else None
    if serving is not None:
        wrong = list(_of_server(recipe, architecture, serving))
        yield from wrong
        serving = None if wrong else serving  # what it holds is told once it can be
    trained = memory.ranks(recipe, architecture) if kind_of(recipe).trains else []
    if recipe.plan.device_memory_gib and recipe.cluster.platform == "gpu":
        yield from _of_devices(recipe, architecture, trained, serving)
    yield from _of_host(recipe, architecture, trained, serving)
    yield from _of_disk(recipe, architecture)


def _of_host(
    recipe: DictConfig, architecture: Architecture, trained: list[memory.Rank], serving: Server | None
) -> Iterator[Misfit]:
    given = recipe.plan.host_memory_gib
    held = memory.host_bytes(recipe, trained)
    needed = sum(held.values()) / GIB
    if not given or needed <= given:
        return
    told = f"a node would need {needed:.1f} GiB of its {given:,.1f} GiB (plan.host_memory_gib)"
    checkpoint, optimizer = "checkpoints.asynchronous", "cluster.offload_optimizer"
    for keys in ([checkpoint], [optimizer], [checkpoint, optimizer]):
        other = changed(recipe, dict.fromkeys(keys, False))
        rest = memory.host_bytes(other, trained)
        on_devices = recipe.plan.device_memory_gib if optimizer in keys else None
        if sum(rest.values()) <= given * GIB and not (
            on_devices and list(_of_devices(other, architecture, trained, serving))
        ):
            advice = " and ".join(["set it", *keys[1:]]) + " to false"
            yield Misfit(keys[0], f"{keys[0]} is true: {told}; {advice}")
            return
    parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in held.items())
    key = "plan.host_memory_gib"
    yield Misfit(key, f"{key} is {given}: a node would need {needed:.1f} GiB ({parts}); take larger nodes")


def _of_disk(recipe: DictConfig, architecture: Architecture) -> Iterator[Misfit]:
    given, mean = recipe.plan.disk_gib, _mean_response(recipe)
    held = storage.disk_bytes(recipe, architecture, mean)
    whole = sum(held.values()) / GIB
    if given is None or whole <= given:
        return
    told = f"the artefact would take {whole:,.1f} GiB of the {given:,.1f} GiB of plan.disk_gib"
    changes = _fewer(recipe, architecture, held, (whole - given) * GIB)
    rest = sum(storage.disk_bytes(changed(recipe, changes), architecture, mean).values()) / GIB
    key, advice = "plan.disk_gib", "free space"
    if rest < whole:
        key = next(iter(changes))
        advice = f"keep fewer: {_words(changes)} would bring that to {rest:,.1f}"
        advice += ", and free space" if rest > given else ""
    yield Misfit(key, f"{key} is {OmegaConf.select(recipe, key)}: {told}; {advice}")


def _fewer(recipe: Any, architecture: Architecture, held: Mapping[str, int], excess: float) -> dict[str, int]:
    """Checkpoints to keep, so that they take ``excess`` bytes less, or as much less as there is to keep."""
    if not kind_of(recipe).trains:
        return {}
    fewest = {
        f"{recipe.stage}.keep_checkpoints": 1,
        "checkpoints.keep_best": int(recipe[recipe.stage].validation.export == "best"),
    }
    counts = {key: int(OmegaConf.select(recipe, key)) for key in fewest}
    one = storage.checkpoint(recipe, architecture)
    # one more than is kept is there while it is written
    there = (held["checkpoints"] + held["checkpoint_being_written"]) // one
    wanted = there - math.ceil(excess / one) - 1
    changes = {}
    for key in sorted(fewest, key=lambda each: fewest[each] - counts[each]):
        count = max(fewest[key], wanted - sum(counts.values()) + counts[key])
        if count < counts[key]:
            changes[key] = counts[key] = count
    return changes


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
    longest = recipe.model.max_model_len
    if cluster.platform == "cpu" and serving.tokens < longest:
        gib = math.ceil(longest * serving.kv_token * workers / GIB * 100) / 100
        yield Misfit(
            "rollout.kv_cache_gib",
            f"rollout.kv_cache_gib is {own.kv_cache_gib}: {_holds(recipe, serving)}; "
            f"that takes {gib:.2f} GiB",
        )


def _holds(recipe: Any, serving: Server) -> str:
    return (
        f"a server holds the keys and values of {serving.tokens:,} tokens, not of one full sequence of "
        f"model.max_model_len {recipe.model.max_model_len:,}"
    )


def _of_devices(
    recipe: DictConfig, architecture: Architecture, trained: list[memory.Rank], serving: Server | None
) -> Iterator[Misfit]:
    """A step by itself; then a server's share of a GPU: enough for a sequence, no more than is there."""
    room = _room(recipe)
    step = _alone(recipe, trained, serving)["training"] if trained else 0
    if trained and step > room:
        yield _of_training(recipe, architecture, trained, step, room)
    if serving is None:
        return
    found = memory.moments(recipe, trained, serving)
    too_much = [each for each in found if found[each] > room and (each != "training" or step <= room)]
    short = serving.tokens < recipe.model.max_model_len
    least, most, moment = _bounds(recipe, trained, serving)
    if not (short or too_much):
        return
    if least > most:
        if step <= room or not trained:  # else the advice for a step sees to that too
            yield _of_both(recipe, architecture, serving, trained, moment)
        return
    key = "rollout.gpu_memory_utilization"
    why = (
        f"{_holds(recipe, serving)} (weights {serving.weights / GIB:.1f} GiB, left for keys and values "
        f"{serving.kv_cache / GIB:.1f} of {serving.share / GIB:.1f})"
    )
    advice = f"{least if short else most:.2f} would do"
    if too_much:
        held = f"a server's {serving.share / GIB:.1f}" + (" and a trainer's" if trained else "")
        needed = found[too_much[0]] / GIB
        why = f"{_at(too_much[0])} a GPU would hold {needed:.1f} GiB, {held}, of {room / GIB:.1f}"
        for changes in _asleep(recipe):
            if not list(_of_devices(changed(recipe, changes), architecture, trained, serving)):
                advice += f", or {_words(changes)}"
    yield Misfit(key, f"{key} is {recipe.rollout.gpu_memory_utilization}: {why}; {advice}")


def _room(recipe: Any) -> float:
    return float((recipe.plan.device_memory_gib - recipe.plan.reserve_gib) * GIB)


def _alone(recipe: Any, trained: list[memory.Rank], serving: Server | None) -> dict[str, int]:
    """A GPU's moments without what a server takes."""
    return memory.moments(recipe, trained, serving and replace(serving, share=0))


def _bounds(recipe: Any, trained: list[memory.Rank], serving: Server) -> tuple[float, float, str]:
    """Least share of a GPU that holds a full sequence, most that fits, and the moment that says so."""
    whole = recipe.plan.device_memory_gib * GIB
    short = recipe.model.max_model_len * serving.kv_token - serving.kv_cache
    alone = _alone(recipe, trained, serving)
    beside = memory.moments(recipe, trained, replace(serving, share=GIB))
    most, moment = min((_room(recipe) - alone[each], each) for each in beside if beside[each] > alone[each])
    least = (serving.share + short) / whole
    return math.ceil(least * 100) / 100, math.floor(most / whole * 100) / 100, moment


def _of_both(
    recipe: DictConfig,
    architecture: Architecture,
    serving: Server,
    trained: list[memory.Rank],
    moment: str,
) -> Misfit:
    """No share is enough for a sequence and leaves enough for the trainer."""
    longest = recipe.model.max_model_len
    needed = serving.share - serving.kv_cache + longest * serving.kv_token
    left = max(0.0, _room(recipe) - _alone(recipe, trained, serving)[moment])
    why = (
        f"for one full sequence of model.max_model_len {longest:,} a server needs {needed / GIB:.1f} GiB of "
        f"a GPU (weights {serving.weights / GIB:.1f}), and {_at(moment)} {left / GIB:.1f} are left for it"
    )
    key, advice = "cluster.nodes", "take more"
    if not trained:
        key = "rollout.tensor_parallel" if recipe.rollout.gpus else "cluster.devices_per_node"
        advice = "share the model among more GPUs, or larger ones"
    tried = [*_asleep(recipe), *_wider(recipe, architecture)]
    tried += _remedies(recipe, architecture) if trained else _shorter(recipe)
    changes = _first(recipe, architecture, tried)
    if changes:
        key = next(iter(changes))
        advice = f"{_words(changes)} would do"
        if key == "rollout.tensor_parallel":
            advice = f"share the model among more GPUs: {advice}"
    return Misfit(key, f"{key} is {_word(OmegaConf.select(recipe, key))}: {why}; {advice}")


def _first(
    recipe: DictConfig, architecture: Architecture, tried: Iterable[dict[str, Any]]
) -> dict[str, Any] | None:
    """The first changes with which a step fits, and beside it some ``rollout.gpu_memory_utilization``."""
    for changes in tried:
        other = changed(recipe, changes)
        trained = memory.ranks(other, architecture) if kind_of(other).trains else []
        serving = server(other, architecture) if kind_of(other).samples else None
        if trained and _alone(other, trained, serving)["training"] > _room(other):
            continue
        if serving is not None:
            least, most, _ = _bounds(other, trained, serving)
        if serving is None or least <= most:
            return changes
    return None


def _asleep(recipe: Any) -> list[dict[str, Any]]:
    if (
        not kind_of(recipe).on_policy
        or recipe.rollout.sleep
        or recipe.grpo.max_lag
        or not memory.shares_gpus(recipe)
    ):
        return []
    return [{"rollout.sleep": True}]


def _wider(recipe: Any, architecture: Architecture) -> Iterator[dict[str, Any]]:
    """Servers of more GPUs each, as many of them as there is place for."""
    own, devices = recipe.rollout, recipe.cluster.devices_per_node
    nodes = own.nodes or recipe.cluster.nodes
    heads = architecture.kv_heads
    for workers in range(own.tensor_parallel + 1, 1 if own.gpus else devices + 1):
        if architecture.heads % workers == 0 and (heads % workers == 0 or workers % heads == 0):
            servers = min(own.servers, nodes * (devices // workers))
            words = {"rollout.tensor_parallel": workers}
            yield words if servers == own.servers else {**words, "rollout.servers": servers}


def _shorter(recipe: Any) -> Iterator[dict[str, Any]]:
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


def _at(moment: str) -> str:
    return {
        "start": "when the trainer starts (or resumes) beside it",
        "rollouts": "during rollouts",
        "training": "in a step, with a server that does not sleep,",
    }[moment]


def _of_training(
    recipe: DictConfig, architecture: Architecture, trained: list[memory.Rank], needed: int, room: float
) -> Misfit:
    worst = max(trained, key=lambda rank: rank.peak)
    held = (
        f"a step takes {needed / GIB:.1f} GiB of the {room / GIB:.1f} that a GPU has for it (pipeline stage "
        f"{worst.stage}: states {worst.states.total / GIB:.1f}, activations "
        f"{sum(worst.activations.values()) / GIB:.1f})"
    )
    tried = [*_remedies(recipe, architecture)]
    tried += [{**changes, **asleep} for asleep in _asleep(recipe) for changes in tried]
    changes = _first(recipe, architecture, tried)
    if changes:
        peak = max(rank.peak for rank in memory.ranks(changed(recipe, changes), architecture))
        key = next(iter(changes))
        return Misfit(
            key,
            f"{key} is {_word(OmegaConf.select(recipe, key))}: {held}; {_words(changes)} would bring that to "
            f"{(needed - worst.peak + peak) / GIB:.1f}",
        )
    return Misfit("cluster.nodes", f"cluster.nodes is {recipe.cluster.nodes}: {held}; take more")


def _word(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _words(changes: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={_word(value)}" for key, value in changes.items())


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
    for words in _shorter(recipe):
        yield {**words, **{key: value for key, value in together.items() if key not in words}}


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

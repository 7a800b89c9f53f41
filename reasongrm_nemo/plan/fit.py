# SPDX-License-Identifier: Apache-2.0
"""Checks that a recipe fits its cluster, and names the key to change if not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.plan import memory, remedies, storage
from reasongrm_nemo.plan.serving import GIB, Server, server
from reasongrm_nemo.plan.times import mean_response
from reasongrm_nemo.stage_kinds import kind_of


@dataclass(frozen=True)
class Misfit:
    """Something that does not fit.

    Attributes:
        key: recipe key to change.
        sentence: what does not fit and what to do; begins with the key.
    """

    key: str
    sentence: str


def misfits(recipe: DictConfig, architecture: Architecture) -> list[Misfit]:
    """Everything that does not fit: GPU memory at each moment, servers, host memory, disk.

    Args:
        recipe: resolved, and checked against its model (``model.architecture``).
        architecture: shape of the model, divisible by the layout.
    """
    serving = server(recipe, architecture) if kind_of(recipe).samples else None
    trained = memory.ranks(recipe, architecture)
    wrong = [] if serving is None else list(_of_server(recipe, serving))
    if recipe.plan.device_memory_gib and recipe.cluster.platform == "gpu":
        wrong += _of_devices(recipe, architecture, trained, serving)
    wrong += _of_host(recipe, architecture, trained, serving)
    return [*wrong, *_of_disk(recipe, architecture)]


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
        other = remedies.changed(recipe, dict.fromkeys(keys, False))
        rest = memory.host_bytes(other, trained)
        on_devices = recipe.plan.device_memory_gib if optimizer in keys else None
        if sum(rest.values()) <= given * GIB and not (
            on_devices and list(_of_devices(other, architecture, trained, serving))
        ):
            advice = " and ".join(["set it", *keys[1:]]) + " to false"
            yield _misfit(recipe, keys[0], told, advice)
            return
    parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in held.items())
    why = f"a node would need {needed:.1f} GiB ({parts})"
    yield _misfit(recipe, "plan.host_memory_gib", why, "take larger nodes")


def _of_disk(recipe: DictConfig, architecture: Architecture) -> Iterator[Misfit]:
    given, mean = recipe.plan.disk_gib, mean_response(recipe)
    held = storage.disk_bytes(recipe, architecture, mean)
    whole = sum(held.values()) / GIB
    if given is None or whole <= given:
        return
    told = f"the artefact would take {whole:,.1f} GiB of the {given:,.1f} GiB of plan.disk_gib"
    changes = _fewer(recipe, architecture, held, (whole - given) * GIB)
    rest = sum(storage.disk_bytes(remedies.changed(recipe, changes), architecture, mean).values()) / GIB
    key, advice = "plan.disk_gib", "free space"
    if rest < whole:
        key = next(iter(changes))
        advice = f"keep fewer: {_words(changes)} would bring that to {rest:,.1f}"
        advice += ", and free space" if rest > given else ""
    yield _misfit(recipe, key, told, advice)


def _fewer(recipe: Any, architecture: Architecture, held: Mapping[str, int], excess: float) -> dict[str, int]:
    """Numbers of checkpoints to keep that save ``excess`` bytes, or as much as possible."""
    if not kind_of(recipe).trains:
        return {}
    fewest = {
        f"{recipe.stage}.keep_checkpoints": 1,
        "checkpoints.keep_best": int(recipe[recipe.stage].validation.export == "best"),
    }
    counts = {key: int(OmegaConf.select(recipe, key)) for key in fewest}
    one = storage.checkpoint(recipe, architecture)
    # while a checkpoint is written there is one more than are kept
    there = (held["checkpoints"] + held["checkpoint_being_written"]) // one
    wanted = there - math.ceil(excess / one) - 1
    changes = {}
    for key in sorted(fewest, key=lambda key: fewest[key] - counts[key]):
        count = max(fewest[key], wanted - sum(counts.values()) + counts[key])
        if count < counts[key]:
            changes[key] = counts[key] = count
    return changes


def _of_server(recipe: Any, serving: Server) -> Iterator[Misfit]:
    """On CPU the KV cache must hold one sequence; on GPU ``_of_devices`` checks the memory share."""
    longest = recipe.model.max_model_len
    if recipe.cluster.platform == "cpu" and serving.tokens < longest:
        gib = math.ceil(longest * serving.kv_token * serving.workers / GIB * 100) / 100
        yield _misfit(recipe, "rollout.kv_cache_gib", _holds(recipe, serving), f"that takes {gib:.2f} GiB")


def _holds(recipe: Any, serving: Server) -> str:
    return (
        f"a server holds the keys and values of {serving.tokens:,} tokens, not of one full sequence of "
        f"model.max_model_len {recipe.model.max_model_len:,}"
    )


def _of_devices(
    recipe: DictConfig, architecture: Architecture, trained: list[memory.Rank], serving: Server | None
) -> Iterator[Misfit]:
    """The training step alone; then a server's share, which must hold one sequence and fit beside it."""
    room = _room(recipe)
    step = _alone(recipe, trained, serving)["training"] if trained else 0
    if trained and step > room:
        yield _of_training(recipe, architecture, trained, step, room)
    if serving is None:
        return
    held_at = memory.moments(recipe, trained, serving)
    too_much = [at for at, held in held_at.items() if held > room and (at != "training" or step <= room)]
    short = serving.tokens < recipe.model.max_model_len
    least, most, moment = _bounds(recipe, trained, serving)
    if not (short or too_much):
        return
    if least > most:
        if step <= room or not trained:  # else the advice for the step covers it
            yield _of_both(recipe, architecture, serving, trained, moment)
        return
    why = (
        f"{_holds(recipe, serving)} (weights {serving.weights / GIB:.1f} GiB, left for keys and values "
        f"{serving.kv_cache / GIB:.1f} of {serving.share / GIB:.1f})"
    )
    advice = f"{least if short else most:.2f} would do"
    if too_much:
        held = f"a server's {serving.share / GIB:.1f}" + (" and a trainer's" if trained else "")
        needed = held_at[too_much[0]] / GIB
        why = f"{_at(too_much[0])} a GPU would hold {needed:.1f} GiB, {held}, of {room / GIB:.1f}"
        for changes in remedies.asleep(recipe):
            if not list(_of_devices(remedies.changed(recipe, changes), architecture, trained, serving)):
                advice += f", or {_words(changes)}"
    yield _misfit(recipe, "rollout.gpu_memory_utilization", why, advice)


def _room(recipe: Any) -> float:
    return float((recipe.plan.device_memory_gib - recipe.plan.reserve_gib) * GIB)


def _alone(recipe: Any, trained: list[memory.Rank], serving: Server | None) -> dict[str, int]:
    """Bytes on a GPU at each moment, without the server's share."""
    return memory.moments(recipe, trained, serving and replace(serving, share=0))


def _bounds(recipe: Any, trained: list[memory.Rank], serving: Server) -> tuple[float, float, str]:
    """Smallest GPU share that holds a full sequence, largest that fits, and the moment that limits it."""
    whole = recipe.plan.device_memory_gib * GIB
    short = recipe.model.max_model_len * serving.kv_token - serving.kv_cache
    alone = _alone(recipe, trained, serving)
    beside = memory.moments(recipe, trained, replace(serving, share=GIB))
    most, moment = min((_room(recipe) - alone[name], name) for name in beside if beside[name] > alone[name])
    least = (serving.share + short) / whole
    return math.ceil(least * 100) / 100, math.floor(most / whole * 100) / 100, moment


def _of_both(
    recipe: DictConfig,
    architecture: Architecture,
    serving: Server,
    trained: list[memory.Rank],
    moment: str,
) -> Misfit:
    """No gpu_memory_utilization fits both a full sequence and the trainer."""
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
    tried = [*remedies.asleep(recipe), *remedies.wider(recipe, architecture)]
    tried += remedies.of_trainer(recipe, architecture) if trained else remedies.shorter(recipe)
    changes = _first(recipe, architecture, tried)
    if changes:
        key = next(iter(changes))
        advice = f"{_words(changes)} would do"
        if key == "rollout.tensor_parallel":
            advice = f"share the model among more GPUs: {advice}"
    return _misfit(recipe, key, why, advice)


def _first(
    recipe: DictConfig, architecture: Architecture, tried: Iterable[dict[str, Any]]
) -> dict[str, Any] | None:
    """The first changes with which a step fits beside some ``rollout.gpu_memory_utilization``."""
    for changes in tried:
        other = remedies.changed(recipe, changes)
        trained = memory.ranks(other, architecture)
        serving = server(other, architecture) if kind_of(other).samples else None
        if trained and _alone(other, trained, serving)["training"] > _room(other):
            continue
        if serving is not None:
            least, most, _ = _bounds(other, trained, serving)
        if serving is None or least <= most:
            return changes
    return None


def _at(moment: str) -> str:
    return {
        "resume": "when the trainer resumes beside it",
        "push": "during a push",
        "wake": "when it wakes after a push",
        "save": "when a checkpoint is saved beside it",
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
    tried = [*remedies.of_trainer(recipe, architecture)]
    tried += [{**changes, **asleep} for asleep in remedies.asleep(recipe) for changes in tried]
    changes = _first(recipe, architecture, tried)
    if not changes:
        return _misfit(recipe, "cluster.nodes", held, "take more")
    peak = max(rank.peak for rank in memory.ranks(remedies.changed(recipe, changes), architecture))
    advice = f"{_words(changes)} would bring that to {(needed - worst.peak + peak) / GIB:.1f}"
    return _misfit(recipe, next(iter(changes)), held, advice)


def _misfit(recipe: Any, key: str, why: str, advice: str) -> Misfit:
    return Misfit(key, f"{key} is {_word(OmegaConf.select(recipe, key))}: {why}; {advice}")


def _word(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _words(changes: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={_word(value)}" for key, value in changes.items())

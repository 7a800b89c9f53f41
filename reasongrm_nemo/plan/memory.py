# SPDX-License-Identifier: Apache-2.0
"""GPU and host memory of a run, by moment and use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reasongrm_nemo.megatron import activations, states
from reasongrm_nemo.megatron.states import WIDTH, States
from reasongrm_nemo.models import parameter_counts, push_memory
from reasongrm_nemo.models.architecture import Architecture, Layout
from reasongrm_nemo.plan.serving import GIB, Server
from reasongrm_nemo.processes.placement import servers_per_node
from reasongrm_nemo.stage_kinds import kind_of


@dataclass(frozen=True)
class Rank:
    """A trainer rank of one pipeline stage; bytes.

    Attributes:
        stage: of the pipeline, from 0.
        layers: number of decoder layers.
        count: number of parameters.
        states: weights, gradients and optimizer states.
        activations: peak activation memory of a step, by part (``megatron.activations``).
        push: what a push to a server on the same GPU takes.
    """

    stage: int
    layers: int
    count: parameter_counts.Count
    states: States
    activations: dict[str, int]
    push: push_memory.Push = push_memory.NO_PUSH

    @property
    def peak(self) -> int:
        """Peak memory of a step."""
        return self.states.total + sum(self.activations.values())


def data_parallel(cluster: Any) -> int:
    """Data-parallel size."""
    world: int = cluster.nodes * cluster.devices_per_node
    return world // (cluster.tensor_parallel * cluster.pipeline_parallel)


def ranks(recipe: Any, architecture: Architecture, micro_batches: int | None = None) -> list[Rank]:
    """One rank per pipeline stage (the others are alike); empty for a stage that does not train.

    Args:
        recipe: of any stage.
        architecture: shape of the model.
        micro_batches: micro-batches per step; None: more than the pipeline depth.
    """
    if not kind_of(recipe).trains:
        return []
    layout = Layout.of_cluster(recipe.cluster)
    layers = layout.stages(architecture.layers)
    assert layers is not None
    push = push_memory.of_push(architecture, layout, WIDTH[recipe.model.dtype])
    stage_ranks = []
    for stage in range(layout.pipeline):
        count = parameter_counts.of_stage(architecture, layout, stage)
        kept = states.of_rank(
            count.total, recipe.model.dtype, recipe.cluster.platform, data_parallel(recipe.cluster)
        )
        most = activations.of_step(recipe, architecture, stage, micro_batches)
        stage_ranks.append(Rank(stage, layers[stage], count, kept, most, push))
    return stage_ranks


def moments(recipe: Any, trained: list[Rank], server: Server | None) -> dict[str, int]:
    """Peak bytes on a GPU, by moment of the stage; without ``plan.reserve_gib``.

    Where they share GPUs: ``resume`` and ``save``, with the optimizer states beside servers that are awake;
    ``push``, also to a server that was restarted; ``wake``, before the push's buffer is freed; ``rollouts``.
    """
    step = max((rank.peak for rank in trained), default=0)
    if server is None:
        return {"training": step}
    if not shares_gpus(recipe):
        return ({"training": step} if trained else {}) | {"rollouts": server.share}
    whole = max(rank.states.total for rank in trained) + server.share
    kept = server.share + max(
        rank.states.total - (rank.states.optimizer if recipe.cluster.offload_optimizer else 0)
        for rank in trained
    )
    return {
        "resume": whole,
        "push": kept + sum(trained[0].push),
        "wake": kept + trained[0].push.buffer,
        "rollouts": kept,
        "training": step + (int(recipe.plan.asleep_gib * GIB) if recipe.rollout.sleep else server.share),
        "save": whole,
    }


def shares_gpus(recipe: Any) -> bool:
    """True if a rollout worker and a trainer rank share a GPU."""
    rollout = recipe.rollout
    served = set(rollout.gpus or range(servers_per_node(recipe) * rollout.tensor_parallel))
    both = kind_of(recipe).on_policy and recipe.cluster.platform == "gpu" and not rollout.nodes
    return both and bool(served & set(range(recipe.cluster.devices_per_node)))


def host_bytes(recipe: Any, trained: list[Rank]) -> dict[str, int]:
    """Bytes of host memory on a node, by use; all its ranks are taken to be of the largest stage."""
    devices, copies = recipe.cluster.devices_per_node, data_parallel(recipe.cluster)
    sizes = {"processes": devices * PROCESS}
    if not trained:
        return sizes
    largest = max(trained, key=lambda rank: rank.count.total)
    kept = largest.states
    if recipe.cluster.platform == "cpu":
        sizes["ranks"] = devices * largest.peak
    if recipe.cluster.offload_optimizer and kind_of(recipe).on_policy:
        sizes["optimizer"] = devices * kept.optimizer
    if recipe.checkpoints.asynchronous:
        # each tensor is written by one of its data-parallel ranks
        shared = kept.optimizer if recipe.cluster.platform == "gpu" else kept.optimizer // copies
        sizes["checkpoint"] = devices * (kept.weights // copies + shared)
    if kind_of(recipe).on_policy and recipe.grpo.kl_coefficient > 0:
        sizes["reference"] = devices * kept.weights
    return sizes


PROCESS = 3 * GIB // 4
"""Resident memory of a trainer's process before it holds a model: Python, torch, NeMo (measured on CPU)."""

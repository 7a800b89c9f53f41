# SPDX-License-Identifier: Apache-2.0
"""The layouts that a recipe could have, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.plan import memory, times
from reasongrm_nemo.plan.fit import misfits
from reasongrm_nemo.plan.remedies import changed, layouts
from reasongrm_nemo.stage_kinds import kind_of

AXES = ("tp", "pp", "cp")


@dataclass(frozen=True)
class Row:
    """One layout; bytes a rank at the worst stage, seconds a step.

    Attributes:
        tensor: ``cluster.tensor_parallel``.
        pipeline: ``cluster.pipeline_parallel``.
        data: data-parallel ranks.
        states: weights, gradients and optimizer states.
        activations: most that exists besides.
        peak: the most of both.
        training: seconds of a step beside its rollouts; None where the recipe states no peak.
        misfit: the key of what does not fit, or None.
    """

    tensor: int
    pipeline: int
    data: int
    states: int
    activations: int
    peak: int
    training: float | None
    misfit: str | None


def sweep(recipe: DictConfig, architecture: Architecture | None, axes: Sequence[str]) -> list[Row]:
    """Every layout of the recipe's GPUs along ``axes``; the other sizes stay.

    Args:
        recipe: of a training stage.
        architecture: shape of its model.
        axes: of ``tp``, ``pp`` and ``cp``. Megatron's context parallelism is not in this trainer (its
            micro-batches are not cut along the sequence), so ``cp`` is 1 throughout.

    Raises:
        UserError: an axis is unknown, or the stage does not train.
    """
    for axis in axes:
        if axis not in AXES:
            raise UserError(f'--sweep: "{axis}" is no axis; they are {", ".join(AXES)}')
    if architecture is None or not kind_of(recipe).trains:
        raise UserError(f"--sweep: stage {recipe.stage} trains nothing, so it has no layouts to compare")
    cluster = recipe.cluster
    rows = []
    for tensor, pipeline in layouts(recipe, architecture):
        if ("tp" not in axes and tensor != cluster.tensor_parallel) or (
            "pp" not in axes and pipeline != cluster.pipeline_parallel
        ):
            continue
        words: dict[str, Any] = {"cluster.tensor_parallel": tensor, "cluster.pipeline_parallel": pipeline}
        if pipeline != cluster.pipeline_parallel:
            words |= {"cluster.layers_in_first_stage": None, "cluster.layers_in_last_stage": None}
        # as the recipe has it, where there is anything to shard
        words["cluster.sequence_parallel"] = tensor > 1 and (
            cluster.sequence_parallel or cluster.tensor_parallel == 1
        )
        rows.append(_row(changed(recipe, words), architecture))
    return rows


def _row(recipe: DictConfig, architecture: Architecture) -> Row:
    trained = memory.ranks(recipe, architecture)
    worst = max(trained, key=lambda rank: rank.peak)
    wrong = misfits(recipe, architecture)
    return Row(
        recipe.cluster.tensor_parallel,
        recipe.cluster.pipeline_parallel,
        memory.data_parallel(recipe.cluster),
        worst.states.total,
        sum(worst.activations.values()),
        worst.peak,
        None if recipe.plan.tflops is None else times.step_training(recipe, architecture),
        wrong[0].key if wrong else None,
    )

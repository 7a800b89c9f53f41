# SPDX-License-Identifier: Apache-2.0
"""Compares the layouts that a recipe could use."""

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
    """One layout; bytes per rank of the fullest stage, seconds per step.

    Attributes:
        tensor: ``cluster.tensor_parallel``.
        pipeline: ``cluster.pipeline_parallel``.
        data: data-parallel size.
        states: weights, gradients and optimizer states.
        activations: peak activation memory.
        peak: sum of both.
        training: seconds per step without rollouts; None if ``plan.tflops`` is null.
        misfit: key of the first misfit, or None.
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
    """All layouts of the recipe's GPUs along ``axes``; other sizes stay as they are.

    Args:
        recipe: of a training stage.
        architecture: shape of its model.
        axes: any of ``tp``, ``pp`` and ``cp``; ``cp`` stays 1, since this trainer splits no sequence.

    Raises:
        UserError: an axis is unknown, or the stage does not train.
    """
    for axis in axes:
        if axis not in AXES:
            raise UserError(f'--sweep: "{axis}" is not an axis; known are {", ".join(AXES)}')
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
        # as in the recipe, if there is anything to shard
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

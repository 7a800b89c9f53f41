# SPDX-License-Identifier: Apache-2.0
"""The plan's arithmetic held against a simulation of each distinct rank."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from reasongrm_nemo.megatron import activations
from reasongrm_nemo.models import flops
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.plan import memory
from reasongrm_nemo.plan.simulation.simulate import RankReport, Request, rank_of_stage, simulate

_NEGLIGIBLE = 1e-3  # of a rank's activations: log-probs, masks and ids, which the arithmetic leaves out


@dataclass(frozen=True)
class Line:
    """One component of a rank.

    Attributes:
        name: what it is.
        reckoned: by the plan.
        measured: by the simulation.
        whole: what the difference is small against, where both are next to nothing.
    """

    name: str
    reckoned: int
    measured: int
    whole: int

    @property
    def difference(self) -> float:
        """Reckoned over measured, less 1; 0 where they differ by less than a thousandth of the whole."""
        if abs(self.reckoned - self.measured) <= _NEGLIGIBLE * self.whole:
            return 0.0
        return self.reckoned / self.measured - 1 if self.measured else float("inf")


@dataclass(frozen=True)
class Comparison:
    """A rank of one pipeline stage; bytes, and operations of one full micro-batch.

    Attributes:
        stage: of the pipeline.
        lines: each component, then the sums.
        report: the simulation's.
    """

    stage: int
    lines: list[Line]
    report: RankReport

    @property
    def worst(self) -> Line:
        """The component with the largest difference."""
        return max(self.lines, key=lambda line: abs(line.difference))


def compare(
    recipe: DictConfig, hf_path: Path, architecture: Architecture, quick: bool = False
) -> list[Comparison]:
    """Simulate the distinct ranks of a recipe's layout and hold the plan against them.

    The ranks of a pipeline stage hold the same shapes, so one of each stage is simulated.

    Args:
        recipe: of stage ``grpo`` or ``sft``.
        hf_path: folder of the model's config.json.
        architecture: its shape.
        quick: a single micro-batch, on the first and last pipeline stage alone, which have all there is.

    Raises:
        UserError: the recipe does not train.
        StageFailed: the model could not be built, or the step not be taken.
    """
    last, batches = recipe.cluster.pipeline_parallel - 1, 1 if quick else None
    ranks = [rank_of_stage(recipe.cluster, s) for s in (sorted({0, last}) if quick else range(last + 1))]
    reports = simulate(
        [Request(recipe, hf_path, rank, micro_batches=batches, flops=not quick) for rank in ranks]
    )
    reckoned = memory.ranks(recipe, architecture, batches)
    return [
        Comparison(report.stage, lines(recipe, architecture, reckoned[report.stage], report), report)
        for report in reports
    ]


check = partial(compare, quick=True)


def has_trainer(recipe: DictConfig) -> bool:
    """Whether there is an environment that simulates: this one, or that of ``cluster.trainer_python``."""
    python = recipe.cluster.trainer_python
    return (shutil.which(python) if python else importlib.util.find_spec("nemo_aligner")) is not None


def lines(
    recipe: DictConfig, architecture: Architecture, rank: memory.Rank, report: RankReport
) -> list[Line]:
    """Each component of a rank, reckoned and measured; then the sums, and operations that were counted."""
    pairs = {
        "parameters": (rank.count.total, report.parameters),
        "weights": (rank.states.weights, report.weights),
        "gradients": (rank.states.gradients, report.gradients),
        "optimizer": (rank.states.optimizer, report.optimizer),
    }
    for part in activations.PARTS:
        pairs[part] = (rank.activations[part], report.parts.get(part, 0))
    pairs["activations"] = (sum(rank.activations.values()), report.activations)
    pairs["peak"] = (rank.peak, report.total)
    if report.flops:
        pairs["FLOPs"] = (flops_of_rank(recipe, architecture, rank), report.flops)
    return [
        Line(name, *both, report.activations if name in activations.PARTS else 0)
        for name, both in pairs.items()
    ]


def flops_of_rank(recipe: DictConfig, architecture: Architecture, rank: memory.Rank) -> int:
    """Operations of a rank for one full micro-batch, forward and backward."""
    rows, length = activations.micro_batch(recipe)
    layers = flops.of_layers(
        architecture, rank.layers, rows, length, train=True, recompute=recipe.model.recompute == "full"
    )
    total = layers.total
    if rank.stage == recipe.cluster.pipeline_parallel - 1:
        total += flops.of_head(architecture, rows * (recipe.model.max_model_len - 1), train=True).total
    return round(total / recipe.cluster.tensor_parallel)

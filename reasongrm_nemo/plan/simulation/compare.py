# SPDX-License-Identifier: Apache-2.0
"""Compares the plan with a simulation of each distinct rank."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.megatron import activations
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.plan import memory, times
from reasongrm_nemo.plan.simulation.simulate import RankReport, Request, rank_of_stage, simulate

_NEGLIGIBLE = 1e-3  # share of the activations that the plan leaves out: log-probs, masks and ids


@dataclass(frozen=True)
class Line:
    """One component of a rank.

    Attributes:
        name: name of the component.
        reckoned: planned value.
        measured: simulated value.
        whole: differences below a thousandth of this are ignored.
    """

    name: str
    reckoned: int
    measured: int
    whole: int

    @property
    def difference(self) -> float:
        """Relative error of the plan; 0 if it is below a thousandth of ``whole``."""
        if abs(self.reckoned - self.measured) <= _NEGLIGIBLE * self.whole:
            return 0.0
        return self.reckoned / self.measured - 1 if self.measured else float("inf")


@dataclass(frozen=True)
class Comparison:
    """A rank of one pipeline stage; bytes, and operations of one full micro-batch.

    Attributes:
        lines: the components, then their sums.
        report: report of the simulation.
    """

    lines: list[Line]
    report: RankReport

    @property
    def stage(self) -> int:
        """Of the pipeline."""
        return self.report.held.stage

    @property
    def worst(self) -> Line:
        """The component with the largest difference."""
        return max(self.lines, key=lambda line: abs(line.difference))


def compare(
    recipe: DictConfig, hf_path: Path, architecture: Architecture, quick: bool = False
) -> list[Comparison]:
    """Simulate the distinct ranks of a recipe's layout and compare the plan with them.

    The ranks of a pipeline stage hold the same shapes, so one rank per stage is simulated.

    Args:
        recipe: of stage ``grpo`` or ``sft``.
        hf_path: folder of the model's config.json.
        architecture: its shape.
        quick: one micro-batch, on the first and last pipeline stage only.

    Raises:
        UserError: there is no trainer environment.
        StageFailed: the model could not be built or stepped.
    """
    if not has_trainer(recipe):
        raise UserError(
            "a simulated step needs the trainer environment, which has NeMo-Aligner: run reasongrm in it, or "
            "name its python by cluster.trainer_python, as it is called on this machine"
        )
    last, batches = recipe.cluster.pipeline_parallel - 1, 1 if quick else None
    ranks = [rank_of_stage(recipe.cluster, s) for s in (sorted({0, last}) if quick else range(last + 1))]
    reports = simulate(
        [Request(recipe, hf_path, rank, micro_batches=batches, flops=not quick) for rank in ranks]
    )
    reckoned = memory.ranks(recipe, architecture, batches)
    return [
        Comparison(lines(recipe, architecture, reckoned[report.held.stage], report), report)
        for report in reports
    ]


check = partial(compare, quick=True)


def has_trainer(recipe: DictConfig) -> bool:
    """True if NeMo-Aligner is here, or ``cluster.trainer_python`` exists."""
    python = recipe.cluster.trainer_python
    return (shutil.which(python) if python else importlib.util.find_spec("nemo_aligner")) is not None


def lines(
    recipe: DictConfig, architecture: Architecture, rank: memory.Rank, report: RankReport
) -> list[Line]:
    """Planned and measured components of a rank, their sums, and operations if they were counted."""
    held = report.held
    pairs = {"parameters": (rank.count.total, held.count.total)}
    pairs |= {name: (size, vars(held.states)[name]) for name, size in vars(rank.states).items()}
    pairs |= {part: (rank.activations[part], held.activations.get(part, 0)) for part in activations.PARTS}
    both = sum(rank.activations.values()), sum(held.activations.values())
    pairs |= {"activations": both, "peak": (rank.peak, held.peak)}
    if report.flops:
        rows, length = activations.micro_batch(recipe)
        scored = rows * (recipe.model.max_model_len - 1)
        whole = times.operations(recipe, architecture, rows, length, scored)[rank.stage]
        pairs["FLOPs"] = (round(whole / recipe.cluster.tensor_parallel), report.flops)
    return [Line(name, *pair, both[1] if name in activations.PARTS else 0) for name, pair in pairs.items()]

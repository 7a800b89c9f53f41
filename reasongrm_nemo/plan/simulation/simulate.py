# SPDX-License-Identifier: Apache-2.0
"""Asks for simulated ranks and reads their reports; imports nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.errors import StageFailed, UserError
from reasongrm_nemo.processes.work_order import python_environment
from reasongrm_nemo.stage_kinds import kind_of


@dataclass(frozen=True)
class Request:
    """One rank to simulate.

    Attributes:
        recipe: resolved recipe of stage ``grpo`` or ``sft``.
        hf_path: folder of the model's config.json; weights are not read.
        rank: global rank, below nodes × devices of the recipe's cluster.
        train: also take a step; else the model is only built and counted.
        micro_batches: full ones, of that step; None: as many as the pipeline holds.
        flops: also count a step's operations, in a second one.
    """

    recipe: DictConfig
    hf_path: Path
    rank: int
    train: bool = True
    micro_batches: int | None = None
    flops: bool = False


@dataclass(frozen=True)
class RankReport:
    """What one rank holds; bytes.

    Attributes:
        rank: global rank.
        stage: its pipeline stage.
        parameters: elements it holds.
        replicated: those of them that every tensor-parallel rank holds (norms).
        weights: of the model.
        gradients: fp32, kept over the micro-batches.
        optimizer: Adam's moments and, with bf16 weights, the fp32 weights, over the data-parallel ranks.
        activations: most that existed at once beside those, in the step; 0 where none was taken.
        parts: what those were, by ``megatron.activations``' names.
        flops: operations of one full micro-batch, forward and backward; 0 where they were not counted.
        build_s: seconds to build the model.
        step_s: seconds of the step.
    """

    rank: int
    stage: int
    parameters: int
    replicated: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    parts: dict[str, int]
    flops: int
    build_s: float
    step_s: float

    @property
    def states(self) -> int:
        """Bytes that stay from step to step."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """Bytes at the peak of a step."""
        return self.states + self.activations


def rank_of_stage(cluster: DictConfig, stage: int) -> int:
    """The first global rank of a pipeline stage; megatron-core deals ranks out to stages last of all."""
    world: int = cluster.nodes * cluster.devices_per_node
    return stage * (world // cluster.pipeline_parallel)


def simulate(requests: Sequence[Request]) -> list[RankReport]:
    """Simulate each rank, in one subprocess of the trainer environment.

    Args:
        requests: any recipes, models and ranks; a step at QwQ-32B's full shape takes some 10 seconds.

    Raises:
        UserError: a recipe does not train.
        StageFailed: the subprocess ended badly; its last words are in the sentence.
    """
    if not requests:
        return []
    orders = []
    for request in requests:
        stage, recipe = request.recipe.stage, OmegaConf.to_container(request.recipe)
        if not kind_of(request.recipe).trains:
            raise UserError(f"stage {stage} trains nothing; only recipes of grpo and sft can be simulated.")
        orders.append(vars(request) | {"recipe": recipe, "hf_path": str(request.hf_path.absolute())})
    python = requests[0].recipe.cluster.trainer_python or sys.executable
    done = subprocess.run(
        [python, "-m", "reasongrm_nemo.plan.simulation.fake_rank"],
        input=json.dumps(orders),
        env=python_environment() | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    # the libraries print too; reports are the lines that begin so
    reports = [line[len(MARK) :] for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode != 0 or len(reports) != len(requests):
        raise StageFailed(f"the simulation failed: {done.stderr.strip()[-2000:]}")
    return [RankReport(**json.loads(report)) for report in reports]


MARK = "simulated rank: "


def report_line(report: RankReport) -> str:
    """The line that ``simulate`` reads."""
    return MARK + json.dumps(asdict(report))

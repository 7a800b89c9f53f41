# SPDX-License-Identifier: Apache-2.0
"""Asks for simulated ranks and reads their reports; imports nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.errors import StageFailed
from reasongrm_nemo.megatron.states import States
from reasongrm_nemo.models.parameter_counts import Count
from reasongrm_nemo.plan.memory import Rank
from reasongrm_nemo.processes.work_order import python_environment


@dataclass(frozen=True)
class Request:
    """One rank to simulate.

    Attributes:
        recipe: resolved recipe of stage ``grpo`` or ``sft``.
        hf_path: folder of the model's config.json; weights are not read.
        rank: global rank, below nodes × devices of the recipe's cluster.
        micro_batches: full ones, of the step; None: as many as the pipeline holds; 0: no step is taken.
        flops: also count a step's operations, in a second one.
    """

    recipe: DictConfig
    hf_path: Path
    rank: int
    micro_batches: int | None = None
    flops: bool = False


@dataclass(frozen=True)
class RankReport:
    """What one rank holds, as measured.

    Attributes:
        rank: global rank.
        held: its part of the model; no activations where no step was taken. Gradients and optimizer states
            are arithmetic here too.
        flops: operations of one full micro-batch, forward and backward; 0 where they were not counted.
        build_s: seconds to build the model.
        step_s: seconds of the step.
    """

    rank: int
    held: Rank
    flops: int
    build_s: float
    step_s: float


def rank_of_stage(cluster: DictConfig, stage: int) -> int:
    """The first global rank of a pipeline stage; megatron-core deals ranks out to stages last of all."""
    world: int = cluster.nodes * cluster.devices_per_node
    return stage * (world // cluster.pipeline_parallel)


def simulate(requests: Sequence[Request]) -> list[RankReport]:
    """Simulate each rank, in one subprocess of the trainer environment.

    Args:
        requests: any recipes, models and ranks; a step at QwQ-32B's full shape takes some 10 seconds.

    Raises:
        StageFailed: the subprocess ended badly; its last words are in the sentence.
    """
    if not requests:
        return []
    orders = [
        vars(request)
        | {"recipe": OmegaConf.to_container(request.recipe), "hf_path": str(request.hf_path.absolute())}
        for request in requests
    ]
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
    return [_report(json.loads(report)) for report in reports]


MARK = "simulated rank: "


def report_line(report: RankReport) -> str:
    """The line that ``simulate`` reads."""
    return MARK + json.dumps(asdict(report))


def _report(row: dict[str, Any]) -> RankReport:
    held = row["held"] | {"count": Count(**row["held"]["count"]), "states": States(**row["held"]["states"])}
    return RankReport(**row | {"held": Rank(**held)})

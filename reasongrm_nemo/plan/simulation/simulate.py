# SPDX-License-Identifier: Apache-2.0
"""Runs simulated ranks in a subprocess and reads their reports; imports no torch."""

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
        rank: global rank in the recipe's cluster.
        micro_batches: full micro-batches in the step; None: the pipeline depth; 0: no step.
        flops: count the operations too, in a second step.
    """

    recipe: DictConfig
    hf_path: Path
    rank: int
    micro_batches: int | None = None
    flops: bool = False


@dataclass(frozen=True)
class RankReport:
    """Measurements of one rank.

    Attributes:
        rank: global rank.
        held: measured memory; without activations if no step was taken. Gradients and optimizer states are
            computed, not measured.
        flops: operations of one full micro-batch, forward and backward; 0 if not counted.
        build_s: seconds to build the model.
        step_s: seconds of the step.
    """

    rank: int
    held: Rank
    flops: int
    build_s: float
    step_s: float


def rank_of_stage(cluster: DictConfig, stage: int) -> int:
    """First global rank of a pipeline stage; megatron-core numbers the pipeline dimension outermost."""
    world: int = cluster.nodes * cluster.devices_per_node
    return stage * (world // cluster.pipeline_parallel)


def simulate(requests: Sequence[Request]) -> list[RankReport]:
    """Simulate ranks in a subprocess of the trainer environment.

    Args:
        requests: ranks of recipes that train; a step of QwQ-32B takes about 10 seconds.

    Raises:
        StageFailed: the subprocess failed; the message quotes the end of its stderr.
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
    # libraries print to stdout too; MARK begins the lines with reports
    reports = [line[len(MARK) :] for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode != 0 or len(reports) != len(requests):
        raise StageFailed(f"the simulation failed: {done.stderr.strip()[-2000:]}")
    return [_report(json.loads(report)) for report in reports]


MARK = "simulated rank: "


def report_line(report: RankReport) -> str:
    """The line of standard output that carries a report."""
    return MARK + json.dumps(asdict(report))


def _report(row: dict[str, Any]) -> RankReport:
    held = row["held"] | {"count": Count(**row["held"]["count"]), "states": States(**row["held"]["states"])}
    return RankReport(**row | {"held": Rank(**held)})

# SPDX-License-Identifier: Apache-2.0
"""Entry point of stage ``sft``'s trainer ranks: ``python -m reasongrm_nemo.sft.main WORK_ORDER.json``."""

from __future__ import annotations

from reasongrm_nemo.megatron.platform import Platform
from reasongrm_nemo.megatron.rank_main import rank_main
from reasongrm_nemo.processes.work_order import WorkOrder


def train(order: WorkOrder, platform: Platform) -> None:
    """Train the base model; runs on every rank."""
    from reasongrm_nemo.megatron import session as sessions
    from reasongrm_nemo.megatron.training_run import TrainingRun
    from reasongrm_nemo.sft.data import read_samples
    from reasongrm_nemo.sft.model import SFTModel
    from reasongrm_nemo.sft.steps import step_count
    from reasongrm_nemo.sft.trainer import make_trainer

    recipe, cfg = order.recipe, order.recipe.sft
    samples, held_out = read_samples(
        order.inputs["examples"], recipe, order.model, order.left_out("examples")
    )
    session = sessions.start(
        platform,
        SFTModel,
        recipe,
        cfg.optim,
        step_count(len(samples), cfg),
        order.model,
        order.inputs.get("megatron"),
    )
    run = TrainingRun(order, cfg)
    run.go(session, make_trainer(session, recipe, samples, held_out, run).fit)


if __name__ == "__main__":
    rank_main(train)

# SPDX-License-Identifier: Apache-2.0
"""What each trainer rank of stage ``sft`` runs: ``python -m reasongrm_nemo.sft.main WORK_ORDER.json``."""

from __future__ import annotations

import sys


def main(path: str) -> None:
    """Train as the work order says (see ``work_order``); every rank runs this."""
    from reasongrm_nemo.megatron.platform import load_platform
    from reasongrm_nemo.processes.work_order import WorkOrder, rank_of_the_run

    order = WorkOrder.read(path)
    recipe = order.recipe
    with rank_of_the_run(order):
        platform = load_platform(recipe.cluster.platform)
        from reasongrm_nemo.megatron import session as sessions

        sessions.quiet_libraries()
        from reasongrm_nemo.megatron.training_run import Run
        from reasongrm_nemo.sft.data import read_samples
        from reasongrm_nemo.sft.model import SFTModel
        from reasongrm_nemo.sft.steps import step_count
        from reasongrm_nemo.sft.trainer import make_trainer

        cfg = recipe.sft
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
        run = Run(order, cfg)
        trainer = make_trainer(
            session,
            recipe,
            samples,
            held_out,
            run,
        )
        run.go(session, trainer.fit)


if __name__ == "__main__":
    main(sys.argv[1])

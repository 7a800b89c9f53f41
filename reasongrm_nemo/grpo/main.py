# SPDX-License-Identifier: Apache-2.0
"""Entry point of stage ``grpo``'s trainer ranks: ``python -m reasongrm_nemo.grpo.main WORK_ORDER.json``."""

from __future__ import annotations

from functools import partial

from reasongrm_nemo.megatron.platform import Platform
from reasongrm_nemo.megatron.rank_main import rank_main
from reasongrm_nemo.processes.work_order import WorkOrder, first_rank, note_loss


def train(order: WorkOrder, platform: Platform) -> None:
    """Train the policy; runs on every rank."""
    from reasongrm_nemo.grpo.actor import GRPOActor
    from reasongrm_nemo.grpo.order import taken, with_steps
    from reasongrm_nemo.grpo.source import RolloutSource
    from reasongrm_nemo.grpo.trainer import GRPOTrainer
    from reasongrm_nemo.grpo.validation import Validation
    from reasongrm_nemo.megatron import session as sessions
    from reasongrm_nemo.megatron.training_run import TrainingRun
    from reasongrm_nemo.models.tokenization import load_tokenizer, stop_token_ids
    from reasongrm_nemo.rollout import Rollouts

    recipe = order.recipe
    tasks = taken(
        order.inputs["tasks"], recipe.grpo.skip_tasks, recipe.grpo.max_tasks, order.left_out("tasks")
    )
    recipe = with_steps(recipe, len(tasks))
    cfg = recipe.grpo
    session = sessions.start(
        platform,
        GRPOActor,
        recipe,
        cfg.optim,
        cfg.steps * cfg.optimizer_steps,
        order.model,
        order.inputs.get("megatron"),
    )
    session.model.grpo = cfg
    rollouts = Rollouts.from_specs(order.servers) if first_rank() else None
    if rollouts is not None:
        rollouts.on_loss = partial(note_loss, order.work)
    tokenizer = load_tokenizer(order.model, recipe.judge.date)
    stop_tokens = stop_token_ids(tokenizer, order.model)
    run = TrainingRun(order, cfg)
    trainer = GRPOTrainer(
        session,
        recipe,
        tasks,
        tokenizer,
        stop_tokens,
        RolloutSource(rollouts, session.transfer, order.work / "rollouts", recipe.cluster.weight_transfer),
        run.checkpoints,
        run.metrics,
        Validation.of_recipe(recipe, order.inputs, stop_tokens, order.left_out("validation")),
        run.reason_to_stop,
    )
    run.go(session, trainer.fit)


if __name__ == "__main__":
    rank_main(train)

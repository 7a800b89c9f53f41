# SPDX-License-Identifier: Apache-2.0
"""Stage grpo: the policy learns from the outcome of its own judgements (sections 3.2 and 3.4)."""

from __future__ import annotations

from typing import Any

from reasongrm_nemo.data.jsonl import read_tasks
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.stages.context import StageContext
from reasongrm_nemo.stages.ranks import run_ranks
from reasongrm_nemo.stages.training import last_figures


def run(ctx: StageContext) -> dict[str, Any]:
    """Writes ``hf/`` (the trained policy), ``checkpoints/``, ``rollouts/`` and ``metrics.jsonl``."""
    cfg = ctx.cfg.grpo
    tasks = sum(1 for _ in read_tasks(ctx.inputs["tasks"]))
    if tasks <= cfg.skip_tasks:
        raise UserError(
            f"inputs.tasks: {ctx.inputs['tasks']} holds {tasks} tasks and grpo.skip_tasks is "
            f"{cfg.skip_tasks}; nothing is left to train on"
        )
    rollouts = ctx.rollouts()
    run_ranks(ctx, "reasongrm_nemo.grpo.main", cfg.steps, [server.spec() for server in rollouts.servers])
    # the served weights are the policy's last but one; whoever asks next must load its own
    for server in rollouts.servers:
        server.forget_weights()
    return {"tasks": tasks} | last_figures(ctx.work / "metrics.jsonl", ("reward", "kept", "groups"))

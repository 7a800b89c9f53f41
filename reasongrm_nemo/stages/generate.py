# SPDX-License-Identifier: Apache-2.0
"""Generate: samples G reasoning paths per task from LRM-Zero, with token probabilities (section 3.3)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from reasongrm_nemo.data import JudgeTask, ReasoningPath, read_jsonl
from reasongrm_nemo.evaluation.positions import Positions
from reasongrm_nemo.judge import load_equivalence
from reasongrm_nemo.report.positions import tell_positions
from reasongrm_nemo.run.stage import StageContext
from reasongrm_nemo.stages.sampling import Ask, rollout_sampling, sample_paths, shard_files
from reasongrm_nemo.stages.scoring import Scorer, score_paths
from reasongrm_nemo.stages.tasks import Task, load_any_tasks


def run(ctx: StageContext) -> dict[str, Any]:
    """Write paths.jsonl (`ReasoningPath`), and probs.parquet if the probabilities are kept."""
    tasks = load_any_tasks(ctx.inputs["tasks"], ctx.cfg.generate.skip_tasks, ctx.cfg.generate.max_tasks)
    asked = {task.id: task for task in _paths(ctx, tasks)}
    positions, judged = Positions(), False
    paths = right = tokens = cut_off = 0
    for path in read_jsonl(ctx.work / "paths.jsonl", ReasoningPath):
        paths += 1
        right += path.correct
        tokens += path.reasoning_tokens + path.answer_tokens
        cut_off += path.finish_reason == "length"
        if path.unscored:
            ctx.drop(f"path without R*: {path.unscored}")
        task = asked[path.task_id]
        if isinstance(task, JudgeTask):
            positions.add(task.pair_id, task.order, path.verdict)
            judged = True
    return {
        "tasks": len(asked),
        "paths": paths,
        "right": right / max(paths, 1),  # a shard may be empty
        "mean_tokens": tokens / max(paths, 1),
        "cut_off": cut_off,
        **({"positions": tell_positions(ctx.console, positions)} if judged else {}),
    }


def _paths(ctx: StageContext, tasks: list[Task]) -> list[Task]:
    """Sample paths, score them if there is a scorer, and return the sampled tasks."""
    cfg, options, out = ctx.cfg, ctx.cfg.generate, ctx.work / "paths.jsonl"
    ask = Ask(
        model_dir=ctx.inputs["model"],
        model=cfg.model.hf_path,
        samples=options.samples,
        policy=cfg.judge.policy,
        response_prefix=cfg.judge.response_prefix,
        sampling=rollout_sampling(cfg),
        purpose="generate",
        label="paths",
        keep_token_ids=options.keep_token_ids,
        keep_probs=options.keep_probs,
        equivalent=load_equivalence(options.equivalence),
    )
    shards, sampled = shard_files(ctx), ctx.work / "sampled.jsonl"
    if "scorer" not in ctx.inputs or shards or out.exists():
        asked = sample_paths(ctx, tasks, ask, out, options.shard, shards)
    else:
        ask = replace(ask, keep_token_ids=True, keep_probs=False)
        asked = sample_paths(ctx, tasks, ask, sampled, options.shard)
        scorer = Scorer(
            ctx.inputs["scorer"], options.scorer.hf_path, options.keep_token_ids, options.keep_probs
        )
        score_paths(ctx, asked, sampled, out, scorer)
    sampled.unlink(missing_ok=True)  # the stage may have been killed before this line
    return asked

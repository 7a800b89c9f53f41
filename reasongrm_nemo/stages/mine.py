# SPDX-License-Identifier: Apache-2.0
"""Mine: the tasks that LRM-SFT does not get right in all of N answers (section 3.4, step 1)."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from reasongrm_nemo.data import ReasoningPath, SftExample, read_jsonl, write_jsonl
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.rewards import choose_hard, mine_hard_cases, to_hard_tasks
from reasongrm_nemo.stages.context import StageContext
from reasongrm_nemo.stages.sampling import Ask, sample_paths, shard_files
from reasongrm_nemo.stages.tasks import load_tasks, parse_shard


def run(ctx: StageContext) -> dict[str, Any]:
    """Write paths.jsonl (the N answers, `ReasoningPath`) and hard.jsonl (`HardTask`)."""
    cfg, own = ctx.cfg, ctx.cfg.mine
    tasks = load_tasks(ctx.inputs["tasks"], own.skip_tasks, own.max_tasks)
    ask = Ask(
        model_dir=ctx.inputs["model"],
        model=cfg.model.hf_path,
        samples=own.samples,
        temperature=cfg.rollout.temperature,
        purpose="mine",
        label="answers",
    )
    asked = sample_paths(ctx, tasks, ask, ctx.work / "paths.jsonl", own.shard, shard_files(ctx))
    rationales = {}
    if "examples" in ctx.inputs:
        examples = read_jsonl(ctx.inputs["examples"], SftExample)
        rationales = {example.task_id: example.messages[-1]["content"] for example in examples}
    cases = mine_hard_cases(read_jsonl(ctx.work / "paths.jsonl", ReasoningPath))
    found = to_hard_tasks(cases, asked, rationales)
    bands = [(low, high) for low, high in own.bands]
    hard, left_out = choose_hard(found, cfg.seed, bands, own.drop_never_right, own.max_per_source)
    if not hard and parse_shard(own.shard)[1] == 1:
        raise UserError(_nothing_hard(len(asked), len(found), own))
    write_jsonl(ctx.work / "hard.jsonl", hard)
    never = sum(task.accuracy == 0 for task in hard)
    ctx.drop("task always right", len(asked) - len(found))
    for reason, count in left_out.items():
        ctx.drop(reason, count)
    ctx.console.line(f"  {len(hard)} hard of {len(asked)} tasks ({never} never right)")
    return {
        "tasks": len(asked),
        "hard": len(hard),
        "never_right": never,
        "mean_accuracy_of_hard": sum(task.accuracy for task in hard) / max(len(hard), 1),
    }


def _nothing_hard(asked: int, found: int, own: DictConfig) -> str:
    if found:
        return (
            f"none of the {found} hard tasks is left by mine.bands {list(own.bands)} and "
            f"mine.drop_never_right {own.drop_never_right}; widen them"
        )
    return (
        f"all {asked} tasks were judged right {own.samples} times of {own.samples}: none is hard, "
        "so the last training stage has nothing to learn from; mine more tasks (mine.max_tasks) or "
        "answers (mine.samples)"
    )

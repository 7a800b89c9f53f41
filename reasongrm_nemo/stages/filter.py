# SPDX-License-Identifier: Apache-2.0
"""Filter: of each task's right paths the one with the highest R* (section 3.3), beside a random one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reasongrm_nemo.data import JudgeTask, ReasoningPath, SftExample, read_jsonl, write_jsonl
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files import write_json
from reasongrm_nemo.rstar import select_paths, selection_report, to_sft_example
from reasongrm_nemo.stages.context import StageContext
from reasongrm_nemo.stages.tasks import load_tasks


def run(ctx: StageContext) -> dict[str, Any]:
    """Write examples.jsonl and, for comparison, examples_random.jsonl (`SftExample`), and report.json."""
    cfg = ctx.cfg
    tasks = {task.id: task for task in load_tasks(ctx.inputs["tasks"])}
    report = selection_report(_paths(ctx, tasks), cfg.seed)
    ctx.drop("task without an eligible right path", report["tasks_without_eligible_path"])
    for reason, count in report["ineligible_paths"].items():
        ctx.drop(f"path: {reason.replace('_', ' ')}", count)
    chosen = _select(ctx, tasks, cfg.filter.strategy)
    if not chosen:
        raise UserError(
            f"none of the {report['paths']} paths of {ctx.inputs['paths']} is right and whole, so there "
            "is nothing to train on; generate more paths (generate.samples, generate.max_tasks) or train the "
            "model that writes them longer"
        )
    write_jsonl(ctx.work / "examples.jsonl", chosen)
    if cfg.filter.compare_random:
        write_jsonl(ctx.work / "examples_random.jsonl", _select(ctx, tasks, "random"))
    write_json(ctx.work / "report.json", report)
    mean = sum(example.r_star for example in chosen) / len(chosen)
    ctx.console.line(
        f"  {len(chosen)} examples of {report['tasks']} tasks, {report['right_paths']} right paths of "
        f"{report['paths']}; mean R* {mean:.3f}"
    )
    return {
        "tasks": report["tasks"],
        "paths": report["paths"],
        "right_paths": report["right_paths"],
        "examples": len(chosen),
        "mean_r_star": mean,
        "strategy": cfg.filter.strategy,
    }


def _paths(ctx: StageContext, tasks: dict[str, JudgeTask]) -> Iterator[ReasoningPath]:
    for path in read_jsonl(ctx.inputs["paths"], ReasoningPath):
        if path.task_id not in tasks:
            raise UserError(
                f"{ctx.inputs['paths']} has a path of the task {path.task_id}, which inputs.tasks "
                f"({ctx.inputs['tasks']}) lacks; give the tasks that the paths were generated for"
            )
        yield path


def _select(ctx: StageContext, tasks: dict[str, JudgeTask], strategy: str) -> list[SftExample]:
    try:
        paths = select_paths(_paths(ctx, tasks), strategy, ctx.cfg.seed)
    except ValueError as error:
        raise UserError(f"{ctx.inputs['paths']}: {error}") from None
    prefix = ctx.cfg.judge.response_prefix
    return [to_sft_example(path, tasks[path.task_id], strategy, prefix) for path in paths]

# SPDX-License-Identifier: Apache-2.0
"""Mine: finds the tasks that LRM-SFT does not judge right in all N answers (section 3.4, step 1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from reasongrm_nemo.data import HardTask, JudgeTask, PlacedJsonl, ReasoningPath, SftExample, write_jsonl
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation.positions import Positions
from reasongrm_nemo.report.positions import tell_positions
from reasongrm_nemo.rewards import HardCase, choose_hard, find_hard, hard_task
from reasongrm_nemo.rstar import TableBuilder
from reasongrm_nemo.rstar.table import VERDICTS
from reasongrm_nemo.run.stage import StageContext
from reasongrm_nemo.stages.sampling import Ask, rollout_sampling, sample_paths, shard_files
from reasongrm_nemo.stages.tasks import load_tasks, parse_shard


def run(ctx: StageContext) -> dict[str, Any]:
    """Write paths.jsonl (the N answers, `ReasoningPath`) and hard.jsonl (`HardTask`)."""
    cfg, options = ctx.cfg, ctx.cfg.mine
    tasks = load_tasks(ctx.inputs["tasks"], options.skip_tasks, options.max_tasks)
    ask = Ask(
        model_dir=ctx.inputs["model"],
        model=cfg.model.hf_path,
        samples=options.samples,
        policy=cfg.judge.policy,
        response_prefix=cfg.judge.response_prefix,
        sampling=rollout_sampling(cfg),
        purpose="mine",
        label="answers",
    )
    asked = sample_paths(ctx, tasks, ask, ctx.work / "paths.jsonl", options.shard, shard_files(ctx))
    mined = Mined(ctx.work / "paths.jsonl", ctx.inputs.get("examples"))
    bands = [(low, high) for low, high in options.bands]
    sources = {task.id: task.source for task in asked}
    cases, left_out = choose_hard(
        mined.cases, sources, cfg.seed, bands, options.drop_never_right, options.max_per_source
    )
    if not cases and parse_shard(options.shard)[1] == 1:
        raise UserError(_nothing_hard(len(asked), len(mined.cases), options))
    write_jsonl(ctx.work / "hard.jsonl", mined.records(cases, asked))
    positions = mined.positions(asked)
    never = sum(case.accuracy == 0 for case in cases)
    ctx.drop("task always right", len(asked) - len(mined.cases))
    for reason, count in left_out.items():
        ctx.drop(reason, count)
    ctx.console.line(f"  {len(cases)} hard of {len(asked)} tasks ({never} never right)")
    return {
        "tasks": len(asked),
        "hard": len(cases),
        "never_right": never,
        "mean_accuracy_of_hard": sum(case.accuracy for case in cases) / max(len(cases), 1),
        "positions": tell_positions(ctx.console, positions),
    }


class Mined:
    """The hard cases of a file of paths; texts stay on disk until `records` looks them up.

    Args:
        paths: file with the N answers of each task.
        examples: file of paths chosen by the filter stage, preferred as rationales (for several paths per
            task: highest R*, then validity, then the first), or None.
    """

    def __init__(self, paths: Path, examples: Path | None) -> None:
        self._paths = PlacedJsonl(paths, ReasoningPath.from_dict)
        builder = TableBuilder()
        for path, place in self._paths.scan():
            builder.add(path, place)
        self.table = builder.finish()
        self.cases: list[HardCase[int]] = find_hard(self.table)
        self._examples: PlacedJsonl[SftExample] | None = None
        self._example_places: dict[str, int] = {}
        if examples is not None:
            self._examples = PlacedJsonl(examples, SftExample.from_dict)
            best: dict[str, tuple[float, float]] = {}
            for example, place in self._examples.scan():
                rank = example.r_star, example.validity
                if example.task_id not in best or rank > best[example.task_id]:
                    best[example.task_id] = rank
                    self._example_places[example.task_id] = place

    def positions(self, tasks: Sequence[JudgeTask]) -> Positions:
        """Counts of all verdicts by the order of the two answers in the prompt."""
        shown, table, positions = {task.id: task for task in tasks}, self.table, Positions()
        for row, code in zip(table.task.tolist(), table.verdict.tolist(), strict=True):
            task = shown[table.task_ids[row]]
            positions.add(task.pair_id, task.order, VERDICTS[code])
        return positions

    def records(self, cases: Sequence[HardCase[int]], tasks: Sequence[JudgeTask]) -> Iterator[HardTask]:
        """The cases as `HardTask`, in the order of the tasks."""
        by_id = {case.task_id: case for case in cases}
        for task in tasks:
            if task.id in by_id:
                yield hard_task(task, by_id[task.id], self._rationale(by_id[task.id]))

    def _rationale(self, case: HardCase[int]) -> str | None:
        if self._examples is not None and case.task_id in self._example_places:
            example = self._examples.get(self._example_places[case.task_id])
            return example.messages[-1]["content"]
        return None if case.rationale is None else self._paths.get(case.rationale).text


def _nothing_hard(asked: int, hard: int, options: DictConfig) -> str:
    if hard:
        return (
            f"none of the {hard} hard tasks passes mine.bands {list(options.bands)} and "
            f"mine.drop_never_right {options.drop_never_right}; widen these"
        )
    return (
        f"all {asked} tasks were judged right {options.samples} times of {options.samples}, so none is hard "
        "and the last training stage has nothing to learn from; mine more tasks (mine.max_tasks) or "
        "answers (mine.samples)"
    )

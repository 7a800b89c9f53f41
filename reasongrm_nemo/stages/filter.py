# SPDX-License-Identifier: Apache-2.0
"""Filter: selects each task's right path with the highest R* (section 3.3), and a random one to compare.

Reads both files once for their figures, then looks up only the texts of chosen paths.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from typing import Any

from reasongrm_nemo.data import PlacedJsonl, ReasoningPath, SftExample, any_task_from_dict, write_jsonl
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.writes import write_json, write_text
from reasongrm_nemo.rstar import (
    Floors,
    HesitationCounter,
    PathTable,
    Report,
    Selector,
    TableBuilder,
    side_by_side,
    to_sft_example,
)
from reasongrm_nemo.rstar.table import Rows
from reasongrm_nemo.run.stage import StageContext


def run(ctx: StageContext) -> dict[str, Any]:
    """Write examples.jsonl and examples_random.jsonl (`SftExample`), report.json and extremes.txt."""
    cfg, options = ctx.cfg, ctx.cfg.filter
    source = _Source(ctx)
    floors = Floors(options.min_r_star, options.min_self_consistency, options.min_validity)
    selector = Selector(source.table, cfg.seed, floors)
    report = Report(selector)
    figures = report.figures()
    ctx.drop("task without an eligible right path", figures["tasks_without_eligible_path"])
    for reason, count in figures["ineligible_paths"].items():
        ctx.drop(f"path: {reason.replace('_', ' ')}", count)
    chosen = selector.choose(options.strategy, options.top_k)
    if not len(chosen):
        raise UserError(_nothing_left(ctx, figures, any(floors)))
    scores = array("d")
    write_jsonl(ctx.work / "examples.jsonl", source.examples(chosen, options.strategy, scores))
    if options.compare_random:
        drawn = selector.choose("random", options.top_k)
        write_jsonl(ctx.work / "examples_random.jsonl", source.examples(drawn, "random"))
    write_json(ctx.work / "report.json", figures)
    write_text(ctx.work / "extremes.txt", source.extremes(report, options.extremes))
    mean = math.fsum(scores) / len(scores)
    ctx.console.line(
        f"  {len(scores)} examples of {figures['tasks']} tasks, {figures['right_paths']} right paths of "
        f"{figures['paths']}; mean R* {mean:.3f}"
    )
    return {
        "tasks": figures["tasks"],
        "paths": figures["paths"],
        "right_paths": figures["right_paths"],
        "examples": len(scores),
        "mean_r_star": mean,
        "strategy": options.strategy,
    }


def _nothing_left(ctx: StageContext, figures: dict[str, Any], floors: bool) -> str:
    counts = figures["ineligible_paths"]
    why = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in counts.items())
    advice = "generate more paths (generate.samples, generate.max_tasks) or train the model longer"
    if counts.get("no_think_tags"):
        advice = "R* needs a model that closes its reasoning with </think>; train it longer, or use another"
    return (
        f"none of the {figures['paths']} paths of {ctx.inputs['paths']} is right and whole"
        f"{' and above the floors of filter.min_*' if floors else ''}, so there is nothing to train on "
        f"({why}); {advice}"
    )


class _Source:
    """Paths and their tasks, looked up by their places in the files.

    Raises:
        UserError: a record is invalid, a task id or a path occurs twice, or a path's task is missing.
    """

    def __init__(self, ctx: StageContext) -> None:
        self._ctx = ctx
        self._tasks = PlacedJsonl(ctx.inputs["tasks"], any_task_from_dict)
        self._paths = PlacedJsonl(ctx.inputs["paths"], ReasoningPath.from_dict)
        self._task_places = self._scan_tasks()
        self.table = self._scan_paths()

    def _scan_tasks(self) -> dict[str, int]:
        file, places = self._ctx.inputs["tasks"], {}
        for task, place in self._tasks.scan():
            if task.id in places:
                raise UserError(f"{file}: the task id {task.id} occurs twice; ids must be unique")
            places[task.id] = place
        if not places:
            raise UserError(f"{file} has no tasks")
        return places

    def _scan_paths(self) -> PathTable:
        file, builder = self._ctx.inputs["paths"], TableBuilder()
        try:
            with HesitationCounter() as counter:
                for path, place in self._paths.scan():
                    if path.task_id not in self._task_places:
                        raise UserError(
                            f"{file} has a path of task {path.task_id}, which is missing in inputs.tasks "
                            f"({self._ctx.inputs['tasks']}); use the tasks that the paths were generated for"
                        )
                    builder.add(path, place)
                    counter.add(path.text)
                return builder.finish(counter.counts())
        except ValueError as error:
            raise UserError(f"{file}: {error}") from None

    def examples(self, rows: Rows, strategy: str, scores: array[float] | None = None) -> Iterator[SftExample]:
        """Yield training examples of the paths in `rows`; append their R* to `scores`."""
        prefix = self._ctx.cfg.judge.response_prefix
        for row in rows:
            path = self._path(row)
            task = self._tasks.get(self._task_places[path.task_id])
            example = to_sft_example(path, task, strategy, prefix)
            if scores is not None:
                scores.append(example.r_star)
            yield example

    def extremes(self, report: Report, count: int) -> str:
        """The paths with highest and lowest R* as text, within a task and among all chosen paths."""
        parts = []
        for title, pairs in (
            (
                "Highest (left) and lowest R* of one task's right paths, where they differ most",
                report.widest(count),
            ),
            ("Highest (left) and lowest R* of all chosen paths", report.ends(count)),
        ):
            parts.append(f"{title}\n{'=' * len(title)}\n")
            parts += [side_by_side(self._path(pair.high), self._path(pair.low)) for pair in pairs]
        return "\n".join(parts)

    def _path(self, row: int) -> ReasoningPath:
        return self._paths.get(int(self.table.place[row]))

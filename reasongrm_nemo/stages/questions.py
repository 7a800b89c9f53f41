# SPDX-License-Identifier: Apache-2.0
"""The tasks of an evaluation: held-out tasks as they are, and benchmarks in each model's template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reasongrm_nemo.data import write_jsonl
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation.items import REASONS, Item
from reasongrm_nemo.evaluation.published_files import read_items
from reasongrm_nemo.evaluation.registry import MODULES
from reasongrm_nemo.evaluation.tasks import BenchmarkTask, benchmark_tasks, draw_items, held_out_task
from reasongrm_nemo.judge import CHAT_SPECIAL_TOKENS, Template
from reasongrm_nemo.models.tokenization import load_tokenizer
from reasongrm_nemo.run.stage import StageContext
from reasongrm_nemo.stages.judges import Judge
from reasongrm_nemo.stages.tasks import load_tasks, parse_shard, shard_of

HELD_OUT = "held_out"


class Questions:
    """The tasks of an evaluation, or of one shard of it.

    Held-out tasks come with their prompts. A benchmark's tasks are made from its items once per template used
    by a model, with the special tokens of all models broken up.

    Args:
        ctx: the stage.
        models: all models of the evaluation.

    Attributes:
        names: names of the benchmarks, and `HELD_OUT`.

    Raises:
        UserError: there is no input, or an input cannot be read.
    """

    def __init__(self, ctx: StageContext, models: Sequence[Judge]) -> None:
        self._ctx = ctx
        self.held_out: list[BenchmarkTask] | None = None
        if "tasks" in ctx.inputs:
            tasks = load_tasks(ctx.inputs["tasks"], 0, ctx.cfg.evaluate.max_tasks)
            self.held_out = self._of_shard([held_out_task(task, HELD_OUT) for task in tasks])
        self._items = {name: _items(ctx, name) for name in MODULES if name in ctx.inputs}
        self.names = [*([] if self.held_out is None else [HELD_OUT]), *self._items]
        if not self.names:
            names = ", ".join(f"inputs.{name}" for name in ("tasks", *MODULES))
            raise UserError(f"evaluate has nothing to judge; set at least one of {names}")
        special = set(CHAT_SPECIAL_TOKENS)
        for model in models if self._items else ():
            special.update(load_tokenizer(model.folder).special_tokens)
        self._special = sorted(special)
        self._made: dict[tuple[str, str], tuple[list[BenchmarkTask], Path]] = {}

    def of(self, name: str, template: Template) -> list[BenchmarkTask]:
        """The tasks of a benchmark with a template, or the held-out tasks."""
        return self._make(name, template)[0] if name != HELD_OUT else self.held_out or []

    def file(self, name: str, template: Template) -> Path:
        """The file in tasks/ with a benchmark's tasks (`BenchmarkTask`) for a template."""
        return self._make(name, template)[1]

    def _make(self, name: str, template: Template) -> tuple[list[BenchmarkTask], Path]:
        key = (name, template.digest)
        if key not in self._made:
            options, items = self._ctx.cfg.evaluate, self._items[name]
            made = benchmark_tasks(items, self._ctx.cfg.seed, template, options.both_orders, self._special)
            tasks = self._of_shard(list(made))
            wordings = sum(other == name for other, _ in self._made)
            file = (
                self._ctx.work / "tasks" / (f"{name}_{wordings + 1}.jsonl" if wordings else f"{name}.jsonl")
            )
            file.parent.mkdir(exist_ok=True)
            write_jsonl(file, tasks)
            self._ctx.console.line(
                f"  {name}: {len(items)} items, {len(tasks)} questions, template {template.name}"
            )
            self._made[key] = tasks, file
        return self._made[key]

    def _of_shard(self, tasks: list[BenchmarkTask]) -> list[BenchmarkTask]:
        index, count = parse_shard(self._ctx.cfg.evaluate.shard)
        return [task for task in tasks if count == 1 or shard_of(task.item_key, count) == index]


def _items(ctx: StageContext, name: str) -> list[Item]:
    """Read a benchmark's items; count the unreadable ones."""
    loaded = read_items(name, ctx.inputs[name])
    for reason, count in loaded.drops.items():
        ctx.drop(f"{name}: {REASONS[reason]}", count)
        places = [dropped.where for dropped in loaded.dropped if dropped.reason == reason][:3]
        ctx.log.info("%s: %s: %d, such as %s", name, reason, count, ", ".join(map(str, places)))
    for file in loaded.unread_files:
        ctx.log.info("%s: %s is not one of the benchmark's files and was not read", name, file)
    items = draw_items(loaded.items, ctx.cfg.evaluate.max_items, ctx.cfg.seed)
    if len(items) < len(loaded.items):
        ctx.console.line(f"  {name}: {len(items)} of {len(loaded.items)} items, evaluate.max_items")
    return items

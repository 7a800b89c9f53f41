# SPDX-License-Identifier: Apache-2.0
"""What evaluate asks, and the verdict logs it writes: sampled, or put together from shards.

An item's judgements are all in one shard, by a hash of the item, so that a shard's log can be scored by
itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from reasongrm_nemo.data import PlacedJsonl, ReasoningPath, Verdict, read_jsonl, write_jsonl
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation.benchmarks import MODULES
from reasongrm_nemo.evaluation.files import REASONS, read_items
from reasongrm_nemo.evaluation.tasks import (
    TOO_LONG,
    BenchmarkTask,
    benchmark_tasks,
    draw_items,
    held_out_task,
    to_verdict,
    unasked,
)
from reasongrm_nemo.judge import CHAT_SPECIAL_TOKENS, load_template
from reasongrm_nemo.stages.context import StageContext
from reasongrm_nemo.stages.sampling import Ask, sample_paths
from reasongrm_nemo.stages.tasks import load_tasks, parse_shard, shard_of
from reasongrm_nemo.tokenization import load_tokenizer, prompt_ids

HELD_OUT = "held_out"


def load_questions(ctx: StageContext) -> dict[str, list[BenchmarkTask]]:
    """The tasks by benchmark, of this shard: the held-out ones, and each published benchmark given.

    Raises:
        UserError: no input is given, or one cannot be read.
    """
    own = ctx.cfg.evaluate
    found: dict[str, list[BenchmarkTask]] = {}
    if "tasks" in ctx.inputs:
        tasks = load_tasks(ctx.inputs["tasks"], 0, own.max_tasks)
        found[HELD_OUT] = [held_out_task(task, HELD_OUT) for task in tasks]
    for name in MODULES:
        if name in ctx.inputs:
            found[name] = _benchmark(ctx, name)
    if not found:
        names = ", ".join(f"inputs.{name}" for name in ("tasks", *MODULES))
        raise UserError(f"evaluate has nothing to judge; give at least one of {names}")
    index, count = parse_shard(own.shard)
    if count > 1:
        found = {
            name: [task for task in tasks if shard_of(task.item_key, count) == index]
            for name, tasks in found.items()
        }
    return found


def _benchmark(ctx: StageContext, name: str) -> list[BenchmarkTask]:
    """A benchmark's tasks; all models are shown the same, with the special tokens of each broken up."""
    own = ctx.cfg.evaluate
    loaded = read_items(name, ctx.inputs[name])
    for reason, count in loaded.drops.items():
        ctx.drop(f"{name}: {REASONS[reason]}", count)
        places = [each.where for each in loaded.dropped if each.reason == reason][:3]
        ctx.log.info("%s: %s: %d, such as %s", name, reason, count, ", ".join(map(str, places)))
    for file in loaded.unread_files:
        ctx.log.info("%s: %s is not one of the benchmark's files and was not read", name, file)
    special = set(CHAT_SPECIAL_TOKENS)
    for model in own.models:
        special.update(load_tokenizer(ctx.inputs[f"models.{model}"]).special_tokens)
    items = draw_items(loaded.items, own.max_items, ctx.cfg.seed)
    template = load_template(ctx.cfg.judge.template)
    tasks = list(benchmark_tasks(items, ctx.cfg.seed, template, own.both_orders, sorted(special)))
    ctx.console.line(f"  {name}: {len(items)} of {len(loaded.items)} items, {len(tasks)} questions")
    return tasks


class Judging:
    """Writes the verdict logs of one stage; how long the prompts are is counted once a model.

    Args:
        ctx: the stage.
        questions: from `load_questions`; those of published benchmarks are written to tasks/.
    """

    def __init__(self, ctx: StageContext, questions: Mapping[str, Sequence[BenchmarkTask]]) -> None:
        self._ctx, self._questions = ctx, questions
        self._lengths: dict[tuple[Path, str], int] = {}
        for name, tasks in questions.items():
            if name != HELD_OUT:
                (ctx.work / "tasks").mkdir(exist_ok=True)
                write_jsonl(ctx.work / "tasks" / f"{name}.jsonl", tasks)

    def judge(self, benchmark: str, model: str, setting: DictConfig) -> tuple[Path, str]:
        """The log of a model at a setting, and its name on screen; what was judged before is left as it is.

        Rows are in the tasks' order.  A task whose prompt does not fit is not asked; its rows say so, and
        count as no verdict.

        Raises:
            UserError: the shards do not make up the whole.
        """
        temperature = f"{setting.temperature:g}"
        where = "" if benchmark == HELD_OUT else benchmark
        ask = Ask(
            model_dir=self._ctx.inputs[f"models.{model}"],
            model=self._ctx.cfg.evaluate.models[model],
            samples=setting.samples,
            temperature=setting.temperature,
            # Models are compared on the same draws, settings on their own.
            purpose=f"evaluate t{temperature}",
            label=", ".join(filter(None, [where, model, f"T={temperature}"])),
        )
        file = self._ctx.work / "verdicts" / where / f"{model}_t{temperature}.jsonl"
        sampled = file.with_suffix(".paths")
        if not file.exists():
            self._write(self._questions[benchmark], ask, file, sampled)
        sampled.unlink(missing_ok=True)  # here, as a kill may have come after the log was written
        return file, ask.label

    def _write(self, tasks: Sequence[BenchmarkTask], ask: Ask, file: Path, sampled: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        shards = self._shards(file)
        if shards:
            merge_logs(shards, file, tasks, ask.samples)
            return
        lengths = self._prompt_lengths(tasks, ask.model_dir)
        limit = self._ctx.cfg.judge.max_prompt_tokens
        fitting = [task for task in tasks if lengths[task.id] <= limit]
        if fitting:
            sample_paths(self._ctx, fitting, ask, sampled)
        else:
            sampled.touch()
        write_jsonl(file, _rows(tasks, lengths, limit, ask.samples, sampled))

    def count_unasked(self, statuses: Mapping[str, int]) -> None:
        """Count the judgements of a log that were none, the prompt being too long."""
        reason = "prompt longer than judge.max_prompt_tokens, counted as no verdict"
        self._ctx.drop(reason, statuses.get(TOO_LONG, 0))

    def _prompt_lengths(self, tasks: Sequence[BenchmarkTask], model_dir: Path) -> dict[str, int]:
        missing = [task for task in tasks if (model_dir, task.id) not in self._lengths]
        if missing:
            judge = self._ctx.cfg.judge
            tokenizer, prefix = load_tokenizer(model_dir, judge.date), judge.response_prefix
            for task in missing:
                self._lengths[model_dir, task.id] = len(prompt_ids(tokenizer, task.messages, prefix))
        return {task.id: self._lengths[model_dir, task.id] for task in tasks}

    def _shards(self, file: Path) -> list[Path]:
        """The same log in the artefact of each shard that the recipe lists."""
        found = []
        for index in range(len(self._ctx.cfg.evaluate.shards)):
            shard = self._ctx.inputs[f"shards.{index}"] / file.relative_to(self._ctx.work)
            if not shard.is_file():
                raise UserError(f"evaluate.shards: {shard} does not exist; give the artefacts of all shards")
            found.append(shard)
        return found


def _rows(
    tasks: Sequence[BenchmarkTask], lengths: dict[str, int], limit: int, samples: int, sampled: Path
) -> Iterator[Verdict]:
    """The log's rows; the paths are in the order of the tasks that fit."""
    paths = read_jsonl(sampled, ReasoningPath)
    for task in tasks:
        for sample in range(samples):
            if lengths[task.id] > limit:
                yield unasked(task, sample, lengths[task.id])
            else:
                yield to_verdict(task, next(paths), lengths[task.id])


def merge_logs(shards: Sequence[Path], out: Path, tasks: Sequence[BenchmarkTask], samples: int) -> None:
    """Put the logs of shards together as `out`, in the order of the whole; texts stay on disk.

    Raises:
        UserError: a judgement is there twice, belongs to no task, or is missing.
    """
    wanted = [
        (task.subset, task.item_id, task.cell, task.order, sample)
        for task in tasks
        for sample in range(samples)
    ]
    places: dict[tuple[Any, ...], tuple[PlacedJsonl[Verdict], Any] | None] = dict.fromkeys(wanted)
    files = [PlacedJsonl(shard, Verdict.from_dict) for shard in shards]
    for shard, file in zip(shards, files, strict=True):
        for row, place in file.scan():
            key = (row.subset, row.item_id, row.cell, row.order, row.sample)
            if key not in places or places[key] is not None:
                why = "is in another shard too" if key in places else "is of no task of this recipe"
                raise UserError(f"{shard}: the judgement of item '{row.item_id}' of '{row.subset}' {why}")
            places[key] = file, place
    missing = [key for key in wanted if places[key] is None]
    if missing:
        raise UserError(
            f"the shards lack {len(missing)} of {len(wanted)} judgements, such as of item '{missing[0][1]}' "
            f"of '{missing[0][0]}'; run the shards that are missing and give them too"
        )
    try:
        write_jsonl(out, (file.get(place) for file, place in filter(None, places.values())))
    finally:
        for file in files:
            file.close()

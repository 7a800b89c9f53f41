# SPDX-License-Identifier: Apache-2.0
"""Writes the verdict logs of an evaluation, by sampling or by merging shards.

All judgements of an item are in one shard, chosen by a hash of the item, so a shard's log can be scored
separately.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reasongrm_nemo.data import PlacedJsonl, ReasoningPath, Verdict, read_jsonl, write_jsonl
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation.tasks import REFUSED, TOO_LONG, BenchmarkTask, to_verdict, unasked
from reasongrm_nemo.judge import JudgeSampling
from reasongrm_nemo.models.tokenization import MessagesRefused, load_tokenizer, prompt_ids
from reasongrm_nemo.run.stage import StageContext
from reasongrm_nemo.stages.judges import Judge, Setting
from reasongrm_nemo.stages.questions import HELD_OUT, Questions
from reasongrm_nemo.stages.sampling import REFUSED_TURNS, Ask, sample_paths


class Judging:
    """Writes the verdict logs of one stage; caches prompt lengths per model.

    Args:
        ctx: the stage.
        questions: the tasks to judge.
    """

    def __init__(self, ctx: StageContext, questions: Questions) -> None:
        self._ctx, self._questions = ctx, questions
        self._lengths: dict[tuple[str, str], int | None] = {}

    def judge(self, benchmark: str, model: Judge, setting: Setting) -> tuple[Path, str]:
        """Write a model's log at a setting, unless it exists; return the log and its name on screen.

        Rows are in the order of the tasks.  A task whose prompt does not fit is not sampled; its rows say so
        and count as no verdict.

        Raises:
            UserError: the shards are incomplete or overlap.
        """
        where = "" if benchmark == HELD_OUT else benchmark
        sampling, samples = model.drawn(setting)
        ask = Ask(
            model_dir=model.folder,
            model=model.given,
            samples=samples,
            policy=model.settings.policy,
            response_prefix=model.settings.response_prefix,
            sampling=sampling,
            # Same seeds for all models, which are compared; different seeds per setting.
            purpose=f"evaluate {setting.name}",
            label=", ".join(filter(None, [where, model.name, sampling.words().replace(" = ", "=")])),
        )
        file = self._ctx.work / "verdicts" / where / f"{model.name}_{setting.name}.jsonl"
        sampled = file.with_suffix(".paths")
        if not file.exists():
            tasks = self._questions.of(benchmark, model.settings.template)
            self._write(tasks, ask, model, file, sampled)
            self._ctx.whole(file)
        sampled.unlink(missing_ok=True)  # the stage may have been killed after writing the log
        return file, ask.label

    def _write(
        self, tasks: Sequence[BenchmarkTask], ask: Ask, model: Judge, file: Path, sampled: Path
    ) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        shards = self._shards(file)
        if shards:
            merge_logs(shards, file, tasks, ask.samples)
            return
        lengths = self._prompt_lengths(tasks, model)
        limit = self._ctx.cfg.judge.max_prompt_tokens
        fitting = [task for task in tasks if _fits(lengths[task.id], limit)]
        if fitting:
            sample_paths(self._ctx, fitting, ask, sampled)
        else:
            sampled.touch()
        write_jsonl(file, _rows(tasks, lengths, limit, ask, sampled))

    def count_unasked(self, statuses: Mapping[str, int]) -> None:
        """Count a log's tasks that were not sampled: prompt too long, or refused by the chat template."""
        reason = "prompt longer than judge.max_prompt_tokens, counted as no verdict"
        self._ctx.drop(reason, statuses.get(TOO_LONG, 0))
        self._ctx.drop(f"{REFUSED_TURNS}, counted as no verdict", statuses.get(REFUSED, 0))

    def _prompt_lengths(self, tasks: Sequence[BenchmarkTask], model: Judge) -> dict[str, int | None]:
        """Prompt lengths in tokens, by task id; None if the model's chat template refuses the turns."""
        missing = [task for task in tasks if (model.name, task.id) not in self._lengths]
        if missing:
            tokenizer = load_tokenizer(model.folder, self._ctx.cfg.judge.date)
            prefix = model.settings.response_prefix
            for task in missing:
                try:
                    length = len(prompt_ids(tokenizer, task.messages, prefix))
                except MessagesRefused as refusal:
                    length = None
                    self._ctx.log.info("%s is not asked task %s: %s", model.name, task.id, refusal)
                self._lengths[model.name, task.id] = length
        return {task.id: self._lengths[model.name, task.id] for task in tasks}

    def _shards(self, file: Path) -> list[Path]:
        """The same log in the artefacts of all shards that the recipe lists."""
        shards = []
        for index in range(len(self._ctx.cfg.evaluate.shards)):
            shard = self._ctx.inputs[f"shards.{index}"] / file.relative_to(self._ctx.work)
            if not shard.is_file():
                raise UserError(f"evaluate.shards: {shard} does not exist; list the artefacts of all shards")
            shards.append(shard)
        return shards


def _fits(length: int | None, limit: int) -> bool:
    return length is not None and length <= limit


def _rows(
    tasks: Sequence[BenchmarkTask], lengths: dict[str, int | None], limit: int, ask: Ask, sampled: Path
) -> Iterator[Verdict]:
    """Yield the log's rows; paths are in the order of the tasks that fit."""
    paths = read_jsonl(sampled, ReasoningPath)
    drawn = drawn_fields(ask.sampling)
    for task in tasks:
        for sample in range(ask.samples):
            if not _fits(lengths[task.id], limit):
                yield unasked(task, sample, lengths[task.id])
            else:
                yield to_verdict(task, next(paths), lengths[task.id], ask.policy, drawn)


def drawn_fields(sampling: JudgeSampling) -> dict[str, float | int]:
    """A verdict's sampling fields: the temperature, and options that are not off."""
    off = asdict(JudgeSampling())
    return {
        name: value for name, value in asdict(sampling).items() if name == "temperature" or value != off[name]
    }


def merge_logs(shards: Sequence[Path], out: Path, tasks: Sequence[BenchmarkTask], samples: int) -> None:
    """Merge the logs of shards to `out`, in task order; texts stay on disk.

    Raises:
        UserError: a judgement occurs twice, belongs to no task, or is missing.
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
                why = "is also in another shard" if key in places else "belongs to no task of this recipe"
                raise UserError(f"{shard}: the judgement of item '{row.item_id}' of '{row.subset}' {why}")
            places[key] = file, place
    missing = [key for key in wanted if places[key] is None]
    if missing:
        raise UserError(
            f"the shards lack {len(missing)} of {len(wanted)} judgements, e.g. of item '{missing[0][1]}' "
            f"of '{missing[0][0]}'; run the missing shards and list them too"
        )
    try:
        write_jsonl(out, (file.get(place) for file, place in filter(None, places.values())))
    finally:
        for file in files:
            file.close()

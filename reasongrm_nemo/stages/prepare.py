# SPDX-License-Identifier: Apache-2.0
"""Prepare: converts preference pairs to judge tasks, with a seeded order of the two answers.

Questions with a reference answer are converted to tasks with open answers.

drops.json counts dropped rows by reason, and dropped.jsonl lists them; neutralised.json counts pairs that
contained control tokens and the like; forms.json counts rows by the fields from which they were read.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from msgspec.structs import replace

from reasongrm_nemo.data import PreferencePair, QuestionAnswer, derive_seed, write_jsonl
from reasongrm_nemo.data.decontaminate import Decontaminator, user_turns
from reasongrm_nemo.data.hub import HubName, fetch_dataset
from reasongrm_nemo.data.problems import DROP_REASONS
from reasongrm_nemo.data.questions import make_answer_tasks, read_questions
from reasongrm_nemo.data.sources import Dropped, Loaded, read_pairs
from reasongrm_nemo.data.tasks import make_tasks, split_pairs
from reasongrm_nemo.demo.tiny_judge import questions
from reasongrm_nemo.errors import StageFailed, UserError
from reasongrm_nemo.files.writes import write_json
from reasongrm_nemo.judge import CHAT_SPECIAL_TOKENS, forgeries, load_template
from reasongrm_nemo.models.tokenization import JudgeTokenizer, MessagesRefused, load_tokenizer, prompt_ids
from reasongrm_nemo.recipe.checks.sampling_stages import MODEL_PACKAGES
from reasongrm_nemo.run.stage import StageContext
from reasongrm_nemo.run.tokenizers import compare_tokenizers
from reasongrm_nemo.stages.tasks import Task

Source: TypeAlias = PreferencePair | QuestionAnswer


def run(ctx: StageContext) -> dict[str, Any]:
    """Write tasks.jsonl, validation.jsonl (`JudgeTask` or `AnswerTask`), counts, and a package's model/."""
    options = ctx.cfg.prepare
    account = _Account(ctx)
    train, validation = _sources(account)  # read the data first, to fail before a model is converted
    model = ctx.inputs.get("model") or _model_of_package(ctx)
    if options.model_package:
        compare_tokenizers(ctx.cfg, {"model": model}, ctx.console.line)
    tokenizer = load_tokenizer(model, ctx.cfg.judge.date)
    kept = {
        "tasks": _tasks(account, train, options.max_tasks, tokenizer),
        "validation": _tasks(account, validation, options.max_validation, tokenizer),
    }
    if not kept["tasks"]:
        raise UserError(
            f"prepare.source {options.source}: no training task is left (dropped: {dict(ctx.drops)})"
        )
    for name, tasks in kept.items():
        write_jsonl(ctx.work / f"{name}.jsonl", tasks)
    write_json(ctx.work / "drops.json", dict(sorted(ctx.drops.items())))
    write_json(ctx.work / "neutralised.json", dict(sorted(account.neutralised.items())))
    write_jsonl(ctx.work / "dropped.jsonl", account.dropped)
    write_json(ctx.work / "forms.json", account.forms)
    counts = {name: len(tasks) for name, tasks in kept.items()}
    ctx.console.line(f"  {counts['tasks']} training and {counts['validation']} held-out tasks")
    return counts | ({"source_commit": account.commit} if account.commit else {})


@dataclass
class _Account:
    """Dropped pairs, and counts of pairs that were neutralised, by kind."""

    ctx: StageContext
    dropped: list[Dropped] = field(default_factory=list)
    neutralised: Counter[str] = field(default_factory=Counter)
    commit: str | None = None
    """Commit of the data set, if it came from a hub."""
    forms: dict[str, int] = field(default_factory=dict)
    """Number of rows by the fields from which they were read."""

    def drop(self, reason: str, pair_id: str, detail: str | None = None) -> None:
        self.ctx.drop(reason)
        self.dropped.append(Dropped(reason, id=pair_id, detail=detail))


def _sources(account: _Account) -> tuple[list[Source], list[Source]]:
    """Read the training and held-out pairs or questions."""
    ctx = account.ctx
    cfg, options = ctx.cfg, ctx.cfg.prepare
    if options.source == "tiny_judge":
        sizes = options.tiny_judge
        return [*questions(sizes.train, cfg.seed, "train")], [
            *questions(sizes.validation, cfg.seed, "validation")
        ]
    files: Path | list[Path] = ctx.inputs["source"] if "source" in ctx.inputs else _fetched(account)
    loaded: Loaded
    if options.kind == "questions":
        loaded = read_questions(files, options.max_chars, options.columns)
        sources: list[Source] = [*loaded.questions]
    else:
        loaded = pairs = read_pairs(files, options.max_chars, options.columns)
        sources = [*pairs.pairs]
        account.forms = dict(pairs.forms.most_common())
        for form, count in account.forms.items():
            ctx.console.line(f"  {count} rows read by {form}")
        if pairs.unread:
            ctx.console.line(f"  not read: {', '.join(sorted(pairs.unread))}")
    for reason, count in loaded.drops.items():
        ctx.drop(DROP_REASONS[reason], count)
        ctx.log.info("%s: %d, such as %s", reason, count, ", ".join(loaded.examples[reason]))
    account.dropped += [replace(drop, reason=DROP_REASONS[drop.reason]) for drop in loaded.dropped]
    if loaded.nul:
        account.neutralised["NUL"] = loaded.nul
    train, validation = split_pairs(_clean(account, sources), options.validation_fraction, cfg.seed)
    _say_limits(ctx, len(train), len(validation))
    return train, validation


def _say_limits(ctx: StageContext, train: int, validation: int) -> None:
    """Warn how many pairs the recipe's limits leave out, and by which keys."""
    options = ctx.cfg.prepare
    tasks = 2 if options.kind == "pairs" and options.both_orders else 1  # tasks per pair
    words, keys = [], []
    for name, key, count in (("training", "max_tasks", train), ("held-out", "max_validation", validation)):
        limit = options[key]
        if limit is not None and count * tasks > limit:
            words.append(f"{count - limit // tasks} of {count} {name} {options.kind}")
            keys.append(f"prepare.{key}")
    if words:
        ctx.console.warn(
            f"at least {' and '.join(words)} are left out by {' and '.join(keys)}; "
            f"set {' '.join(f'{key}=null' for key in keys)} to use all"
        )


def _fetched(account: _Account) -> list[Path]:
    """Fetch the files of a data set on a hub."""
    name = HubName.parse(account.ctx.cfg.prepare.source)
    account.ctx.console.line(f"  fetching {name.repository}")
    files, account.commit = fetch_dataset(name)
    return files


def _clean(account: _Account, sources: list[Source]) -> list[Source]:
    """Drop sources whose prompts overlap with a benchmark's."""
    ctx, options = account.ctx, account.ctx.cfg.prepare
    if not options.decontaminate:
        return sources
    benchmarks = Decontaminator(options.decontaminate_words)
    for index in range(len(options.decontaminate)):
        benchmarks.add_file(ctx.inputs[f"decontaminate.{index}"])
    kept = []
    for source in sources:
        match = benchmarks.match(user_turns(source))
        if match is None:
            kept.append(source)
        else:
            account.drop("prompt overlaps with a benchmark's", source.id, f"{match[0]}: {match[1].strip()}")
    return kept


def _tasks(
    account: _Account, sources: Sequence[Source], limit: int | None, tokenizer: JudgeTokenizer
) -> list[Task]:
    """Make tasks in a seeded order, at most `limit`; drop those too long or refused by the chat template."""
    ctx, cfg = account.ctx, account.ctx.cfg
    special = sorted({*CHAT_SPECIAL_TOKENS, *tokenizer.special_tokens})
    shuffled = sorted(sources, key=lambda source: (derive_seed(cfg.seed, "task_order", source.id), source.id))
    template = load_template(cfg.judge.template)
    kept: list[Task] = []
    for source in shuffled:
        made: list[Task]
        tags: tuple[str, ...]
        if isinstance(source, QuestionAnswer):
            made, tags, texts = [*make_answer_tasks([source], cfg.prepare.instruction, special)], (), []
        else:
            made = [*make_tasks([source], cfg.seed, template, cfg.prepare.both_orders, special)]
            tags, texts = template.tags, [source.chosen, source.rejected]
        try:
            longest = max(len(prompt_ids(tokenizer, t.messages, cfg.judge.response_prefix)) for t in made)
        except MessagesRefused as refusal:
            if not isinstance(source, QuestionAnswer):  # all judge prompts have the same turns
                raise
            account.drop("the chat template refuses the question's turns", source.id, str(refusal))
            continue
        # keep both orders of a pair or neither
        if longest > cfg.judge.max_prompt_tokens:
            for task in made:
                account.drop("prompt longer than judge.max_prompt_tokens", task.id, f"{longest} tokens")
        elif limit is not None and len(kept) + len(made) > limit:
            ctx.drop("past prepare.max_tasks or prepare.max_validation", len(made))
        else:
            texts = [*texts, *(turn["content"] for turn in source.prompt)]
            account.neutralised.update(set().union(*(forgeries(t, special, tags) for t in texts)))
            kept += made
    return kept


def _model_of_package(ctx: StageContext) -> Path:
    """Convert the package's model to work/model with the rollout environment's python."""
    from reasongrm_nemo.processes import child
    from reasongrm_nemo.rollout import RolloutSettings
    from reasongrm_nemo.rollout.server import readers

    name = ctx.cfg.prepare.model_package
    model, aside, log = ctx.work / "model", ctx.work / "model.partial", ctx.work / "model.log"
    if model.exists():
        return model
    if aside.exists():
        shutil.rmtree(aside)
    python = RolloutSettings.from_config(ctx.cfg).python
    ctx.console.line(f"  converting the model of {name}")
    root = str(Path(__file__).resolve().parents[2])
    pid = child.spawn(
        [python, "-m", MODEL_PACKAGES[name], str(aside)], dict(os.environ) | {"PYTHONPATH": root}, log
    )
    try:
        ticks = child.start_ticks(pid)
        while child.alive(pid, ticks):
            time.sleep(0.1)
    finally:
        why = child.exit_cause(pid)
        child.end_group(pid, ticks, 0)
    if why != "ended with status 0":
        words = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise StageFailed(
            f"prepare.model_package {name}: the conversion {why}: {words[-1] if words else ''} (log: {log})"
        )
    readers.check_folder(aside, readers.pythons(ctx.cfg.cluster))
    os.replace(aside, model)
    return model

# SPDX-License-Identifier: Apache-2.0
"""Scores sampled paths with another model in a teacher-forced pass, for R*.

Sampled paths already have probability sums of the model that sampled them, at temperature 1 and over the
full vocabulary, whatever the sampling options. A scorer computes those of another model: from the sampled
tokens if they are valid for the scorer, else from the text in the scorer's form and tokens
(`tokenization.Reteller`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from msgspec.structs import replace

from reasongrm_nemo.data import JsonlAppender, SampledPath, read_jsonl
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge import answer_start
from reasongrm_nemo.models.tokenization import (
    JudgeTokenizer,
    Response,
    Reteller,
    Unfit,
    load_tokenizer,
    prompt_ids,
)
from reasongrm_nemo.rollout import Prompt, Scoring
from reasongrm_nemo.rollout.completion_to_path import with_probs
from reasongrm_nemo.run.stage import StageContext
from reasongrm_nemo.stages.sampling import put_in_order, written
from reasongrm_nemo.stages.tasks import Task

_AT_ONCE = 4096  # number of paths whose tokens are in memory at once


@dataclass(frozen=True)
class Scorer:
    """The scoring model.

    Attributes:
        model_dir: Hugging Face folder.
        name: the model's name in the records.
        keep_token_ids: keep the sampled tokens in the records.
        keep_probs: write every token's probability to the file `PROBS`.
    """

    model_dir: Path
    name: str
    keep_token_ids: bool
    keep_probs: bool


def score_paths(ctx: StageContext, tasks: Sequence[Task], sampled: Path, out: Path, scorer: Scorer) -> None:
    """Write the paths of `sampled` with the scorer's sums to `out`, resuming a stopped stage.

    A path that cannot be expressed for the scorer is written without sums (`ReasoningPath.unscored`).

    Args:
        ctx: the stage.
        tasks: the sampled tasks; paths are written in their order.
        sampled: file of paths with their tokens.
        out: the file to write.
        scorer: the scoring model.

    Raises:
        RolloutServerLost: the server was lost twice.
    """
    aside = out.with_name(out.name + ".partial")
    with JsonlAppender(aside) as file:
        done = {(path.task_id, path.sample) for path in read_jsonl(aside, SampledPath)}
        total = sum(1 for _ in read_jsonl(sampled, SampledPath))
        paths = (p for p in read_jsonl(sampled, SampledPath) if (p.task_id, p.sample) not in done)
        with ctx.console.progress("scored", total, "path", done=len(done)) as progress:
            pass_ = _Pass(ctx, {task.id: task for task in tasks}, scorer)
            while chunk := list(islice(paths, _AT_ONCE)):
                for path in pass_.score(chunk):
                    file.append([path])
                    ctx.stop_if_asked()
                    progress.advance()
    put_in_order([aside], out, {task.id: i for i, task in enumerate(tasks)}, scorer.keep_probs)
    ctx.whole(*written(out, scorer.keep_probs))
    aside.unlink()


class _Pass:
    def __init__(self, ctx: StageContext, tasks: dict[str, Task], scorer: Scorer) -> None:
        self._ctx, self._tasks, self._scorer = ctx, tasks, scorer
        self._tokenizer: JudgeTokenizer = load_tokenizer(scorer.model_dir, ctx.cfg.judge.date)
        self._reteller = Reteller(self._tokenizer, ctx.cfg.judge.response_prefix)

    def score(self, paths: Sequence[SampledPath]) -> Iterator[SampledPath]:
        """Yield paths with new sums as they arrive, or without sums if they cannot be expressed."""
        asked: dict[str, tuple[SampledPath, list[int]]] = {}
        prompts = []
        for path in paths:
            try:
                prompt, tokens = self._whole(path)
            except Unfit as why:
                yield self._scored(replace(path, unscored=str(why)), [], [])
                continue
            if not tokens:
                yield self._scored(path, tokens, [])
                continue
            name = f"{path.sample} {path.task_id}"
            asked[name] = path, tokens
            prompts.append(Prompt(name, [*prompt, *tokens], 0))
        if prompts:
            rollouts = self._ctx.rollouts(self._scorer.model_dir)
            for (answer,) in rollouts.stream(prompts, Scoring()):
                path, tokens = asked[answer.prompt_id]
                yield self._scored(path, tokens, answer.log_probs[-len(tokens) :])

    def _whole(self, path: SampledPath) -> tuple[list[int], list[int]]:
        """Tokens of the scorer's prompt and of the path; `Unfit` if they cannot be expressed."""
        cfg, messages = self._ctx.cfg, self._tasks[path.task_id].messages
        tokens = self._reteller.tokens(Response(path.text, path.begun, path.token_ids, path.tokenizer))
        try:
            prompt = prompt_ids(self._tokenizer, messages, cfg.judge.response_prefix)
        except UserError:
            raise Unfit("whose task's turns the scorer's chat template refuses") from None
        if len(prompt) + len(tokens) > cfg.model.max_model_len:
            raise Unfit("longer than model.max_model_len to the scorer")
        return prompt, tokens

    def _scored(self, path: SampledPath, tokens: list[int], log_probs: Sequence[float]) -> SampledPath:
        cut = answer_start([self._tokenizer.piece(token) for token in tokens])
        kept = path.token_ids if self._scorer.keep_token_ids else None
        named = replace(path, scorer=self._scorer.name, token_ids=kept)
        return with_probs(named, log_probs, cut, self._scorer.keep_probs)

# SPDX-License-Identifier: Apache-2.0
"""A teacher-forced pass: the probabilities of sampled paths under another model, for R*.

The paths' own sums are already those of the model that wrote them, at temperature 1 and over the full
vocabulary, whatever narrowed the sampling; a scorer is for when another model is to judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from reasongrm_nemo.data import JsonlAppender, SampledPath, read_jsonl
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge import answer_start
from reasongrm_nemo.rollout import Prompt, Scoring
from reasongrm_nemo.rollout.to_path import with_probs
from reasongrm_nemo.stages.context import StageContext
from reasongrm_nemo.stages.sampling import put_in_order
from reasongrm_nemo.stages.tasks import Task
from reasongrm_nemo.tokenization import JudgeTokenizer, load_tokenizer, prompt_ids, response_ids

_AT_ONCE = 4096  # paths whose tokens are in memory at once


@dataclass(frozen=True)
class Scorer:
    """The model that judges.

    Attributes:
        model_dir: Hugging Face folder.
        name: in the records.
        writer_dir: folder of the model that wrote the paths. Where both give texts the same tokens the
            sampled ones are scored; else the text, in the scorer's tokens.
        keep_token_ids: keep the tokens in the records.
        keep_probs: write every token's probability beside them.
    """

    model_dir: Path
    name: str
    writer_dir: Path
    keep_token_ids: bool
    keep_probs: bool


def score_paths(ctx: StageContext, tasks: Sequence[Task], sampled: Path, out: Path, scorer: Scorer) -> None:
    """Write the paths of `sampled`, with the scorer's sums, to `out`; goes on where it was stopped.

    Args:
        ctx: the stage.
        tasks: those that were asked; the paths come out in their order.
        sampled: paths with their tokens.
        out: the file to write.
        scorer: the model that judges.

    A path that the scorer cannot read comes out without sums (`ReasoningPath.unscored`).

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
    aside.unlink()


class _Pass:
    def __init__(self, ctx: StageContext, tasks: dict[str, Task], scorer: Scorer) -> None:
        self._ctx, self._tasks, self._scorer = ctx, tasks, scorer
        self._tokenizer: JudgeTokenizer = load_tokenizer(scorer.model_dir, ctx.cfg.judge.date)
        self._same_tokens = self._tokenizer.digest == load_tokenizer(scorer.writer_dir).digest

    def score(self, paths: Sequence[SampledPath]) -> Iterator[SampledPath]:
        """The paths with new sums, as they come; without any where the scorer cannot read them."""
        asked: dict[str, tuple[SampledPath, list[int]]] = {}
        prompts = []
        for path in paths:
            tokens, why = self._tokens(path), None
            try:
                whole = [*self._prompt(path), *tokens]
            except UserError:
                whole, why = [], "the chat template refuses the task's turns"
            if len(whole) > self._ctx.cfg.model.max_model_len:
                why = "too long"
            if why or not tokens:
                yield self._scored(replace(path, unscored=why), [] if why else tokens, [])
                continue
            name = f"{path.sample} {path.task_id}"
            asked[name] = path, tokens
            prompts.append(Prompt(name, whole, 0))
        if prompts:
            rollouts = self._ctx.rollouts(self._scorer.model_dir)
            for (answer,) in rollouts.stream(prompts, Scoring()):
                path, tokens = asked[answer.prompt_id]
                yield self._scored(path, tokens, answer.log_probs[-len(tokens) :])

    def _tokens(self, path: SampledPath) -> list[int]:
        return list(path.token_ids or ()) if self._same_tokens else response_ids(self._tokenizer, path.text)

    def _prompt(self, path: SampledPath) -> list[int]:
        messages = self._tasks[path.task_id].messages
        return prompt_ids(self._tokenizer, messages, self._ctx.cfg.judge.response_prefix)

    def _scored(self, path: SampledPath, tokens: list[int], log_probs: Sequence[float]) -> SampledPath:
        if self._same_tokens and tokens:
            cut = path.reasoning_tokens
        else:
            pieces = [self._tokenizer.piece(token) for token in tokens]
            cut = answer_start(pieces, self._ctx.cfg.judge.policy, bool(path.opened))
        kept = tokens if self._scorer.keep_token_ids else None
        named = replace(path, scorer=self._scorer.name, token_ids=kept)
        return with_probs(named, log_probs, cut, self._scorer.keep_probs)

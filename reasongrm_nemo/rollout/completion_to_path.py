# SPDX-License-Identifier: Apache-2.0
"""Converts a completion to a reasoning path: text, verdict or answer, and probability sums for R*."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, fsum
from typing import Protocol

from msgspec.structs import replace

from reasongrm_nemo.data.records import AnswerTask, JudgeTask, SampledPath
from reasongrm_nemo.data.token_probs import pack
from reasongrm_nemo.judge import answer_start
from reasongrm_nemo.rollout.reading import CompletionReader, Decoder
from reasongrm_nemo.rollout.types import Completion


class Pieces(Decoder, Protocol):
    """The part of `reasongrm_nemo.models.tokenization.JudgeTokenizer` used here."""

    def piece(self, token_id: int) -> str:
        """Text of a single token."""


def reasoning_path(
    completion: Completion,
    task: JudgeTask | AnswerTask,
    tokenizer: Pieces,
    reader: CompletionReader,
    model: str,
    keep_token_ids: bool = False,
    keep_probs: bool = False,
    begun: str | None = None,
    digest: str | None = None,
) -> SampledPath:
    """Build the path of one completion.

    Args:
        completion: a completion of the task's prompt.
        task: provides the label or reference answer.
        tokenizer: tokenizer of the model that sampled the completion.
        reader: reader of that model's completions.
        model: the model's name.
        keep_token_ids: keep the tokens, without the end-of-turn token.
        keep_probs: keep every token's probability.
        begun: beginning of the reasoning that is part of the prompt (`judge.think.begun_by`).
        digest: hash of the tokenizer.
    """
    reading = reader.read(completion, task)
    tokens = reading.tokens
    cut = answer_start([tokenizer.piece(token) for token in tokens])
    path = SampledPath(
        task_id=task.id,
        sample=completion.sample,
        text=reading.text,
        reasoning_tokens=cut,
        answer_tokens=len(tokens) - cut,
        reasoning_prob_sum=0.0,
        answer_prob_sum=0.0,
        verdict=reading.verdict,
        parse_status=reading.status,
        correct=reading.correct,
        finish_reason=reading.finish_reason,
        model=model,
        token_ids=tokens if keep_token_ids else None,
        answer=reading.answer,
        begun=begun,
        tokenizer=digest,
    )
    return with_probs(path, completion.log_probs[: len(tokens)], cut, keep_probs)


def with_probs(path: SampledPath, log_probs: Sequence[float], cut: int, keep_probs: bool) -> SampledPath:
    """The path with token counts and probability sums computed from log-probabilities.

    Sums are over p, not log p (R* is an arithmetic mean of probabilities, section 3.3), in double precision.

    Args:
        path: the path.
        log_probs: log-probabilities of all its tokens, without the end-of-turn token.
        cut: index of the first answer token.
        keep_probs: keep every token's probability.
    """
    probs = list(map(exp, log_probs))
    return replace(
        path,
        reasoning_tokens=cut,
        answer_tokens=len(probs) - cut,
        reasoning_prob_sum=fsum(probs[:cut]),
        answer_prob_sum=fsum(probs[cut:]),
        probs=pack(probs) if keep_probs else None,
    )

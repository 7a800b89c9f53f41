# SPDX-License-Identifier: Apache-2.0
"""A completion becomes a reasoning path: text, verdict or answer, and the probability sums R* needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp, fsum
from typing import Protocol

from reasongrm_nemo.data.records import AnswerTask, JudgeTask, SampledPath
from reasongrm_nemo.data.token_probs import pack
from reasongrm_nemo.judge import answer_start, parse_verdict, read_answer
from reasongrm_nemo.judge.open_answers import Equivalence, exact
from reasongrm_nemo.rollout.types import Completion


class Pieces(Protocol):
    """What is needed of a tokenizer (`reasongrm_nemo.tokenization.JudgeTokenizer`)."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, special ones included."""

    def piece(self, token_id: int) -> str:
        """One token's own text."""


def reasoning_path(
    completion: Completion,
    task: JudgeTask | AnswerTask,
    tokenizer: Pieces,
    policy: str,
    model: str,
    keep_token_ids: bool = False,
    keep_probs: bool = False,
    equivalent: Equivalence = exact,
) -> SampledPath:
    """The path of one completion.

    The end-of-turn token belongs to neither part; a completion cut off by its length has none.

    Args:
        completion: an answer to the task's prompt.
        task: for the label or the reference.
        tokenizer: of the model that wrote it.
        policy: how a verdict is read (`judge.policy`).
        model: name of the model that wrote it.
        keep_token_ids: keep the tokens, without the end-of-turn token.
        keep_probs: keep every token's probability.
        equivalent: whether an open answer is as good as the reference.
    """
    size = len(completion.token_ids) - (completion.finish_reason == "stop")
    tokens = completion.token_ids[:size]
    text = tokenizer.decode(tokens)
    verdict, answer = None, None
    if isinstance(task, AnswerTask):
        said = read_answer(text)
        answer, status = said.answer, said.status
        correct = answer is not None and equivalent(answer, task.reference)
    else:
        parsed = parse_verdict(text, policy)
        verdict, status = parsed.verdict, parsed.status
        correct = verdict == task.label
    cut = answer_start([tokenizer.piece(token) for token in tokens], policy=policy)
    path = SampledPath(
        task_id=task.id,
        sample=completion.sample,
        text=text,
        reasoning_tokens=cut,
        answer_tokens=size - cut,
        reasoning_prob_sum=0.0,
        answer_prob_sum=0.0,
        verdict=verdict,
        parse_status=status,
        correct=correct,
        finish_reason=completion.finish_reason,
        model=model,
        token_ids=tokens if keep_token_ids else None,
        answer=answer,
    )
    return with_probs(path, completion.log_probs[:size], cut, keep_probs)


def with_probs(path: SampledPath, log_probs: Sequence[float], cut: int, keep_probs: bool) -> SampledPath:
    """The path with counts and sums from its tokens' log-probabilities.

    The sums are over p, not log p (R* is an arithmetic mean of probabilities, section 3.3), in double
    precision.

    Args:
        path: the path.
        log_probs: of all its tokens, without the end-of-turn token.
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

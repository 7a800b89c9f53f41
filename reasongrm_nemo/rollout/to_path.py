# SPDX-License-Identifier: Apache-2.0
"""A completion becomes a reasoning path: text, verdict, and the probability sums that R* needs."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, fsum
from typing import Protocol

from reasongrm_nemo.data.records import JudgeTask, ReasoningPath
from reasongrm_nemo.judge import answer_start, parse_verdict
from reasongrm_nemo.rollout.types import Completion


class Pieces(Protocol):
    """What is needed of a tokenizer (`reasongrm_nemo.tokenization.JudgeTokenizer`)."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, special ones included."""

    def piece(self, token_id: int) -> str:
        """One token's own text."""


def reasoning_path(
    completion: Completion,
    task: JudgeTask,
    tokenizer: Pieces,
    policy: str,
    model: str,
    keep_token_ids: bool = False,
) -> ReasoningPath:
    """The path of one completion.

    The sums are over p, not log p (R* is an arithmetic mean of probabilities, section 3.3), in double
    precision.  The end-of-turn token belongs to neither part; a completion cut off by its length has none.

    Args:
        completion: an answer to the task's prompt.
        task: for the label.
        tokenizer: of the model that wrote it.
        policy: how a verdict is read (`judge.policy`).
        model: name of the model that wrote it.
        keep_token_ids: keep the tokens, without the end-of-turn token.
    """
    size = len(completion.token_ids) - (completion.finish_reason == "stop")
    tokens = completion.token_ids[:size]
    text = tokenizer.decode(tokens)
    parsed = parse_verdict(text, policy)
    cut = answer_start([tokenizer.piece(token) for token in tokens], policy=policy)
    return ReasoningPath(
        task_id=task.id,
        sample=completion.sample,
        text=text,
        reasoning_tokens=cut,
        answer_tokens=size - cut,
        reasoning_prob_sum=fsum(map(exp, completion.log_probs[:cut])),
        answer_prob_sum=fsum(map(exp, completion.log_probs[cut:size])),
        verdict=parsed.verdict,
        parse_status=parsed.status,
        correct=parsed.verdict == task.label,
        finish_reason=completion.finish_reason,
        model=model,
        token_ids=tokens if keep_token_ids else None,
    )

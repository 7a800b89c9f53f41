# SPDX-License-Identifier: Apache-2.0
"""What a completion says: read here, once, for GRPO, generate, mine and evaluate alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from reasongrm_nemo.data.records import AnswerTask, JudgeTask, Side
from reasongrm_nemo.judge import parse_verdict, read_answer
from reasongrm_nemo.judge.open_answers import Equivalence, exact
from reasongrm_nemo.rollout.types import Completion


class Decoder(Protocol):
    """The part of a tokenizer (`reasongrm_nemo.models.tokenization.JudgeTokenizer`) that reading needs."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, special ones included."""


@dataclass(frozen=True)
class Reading:
    """A completion as read.

    Attributes:
        tokens: without the end-of-turn token.
        text: of `tokens`.
        verdict: "A", "B" or None; always None for an `AnswerTask`.
        answer: the open answer to an `AnswerTask`, or None.
        status: `ok`, or why nothing was read (`judge.Parsed`, `judge.OpenAnswer`).
        correct: whether the verdict is the task's label, or the answer as good as its reference.
        finish_reason: `stop` or `length`.
    """

    tokens: list[int]
    text: str
    verdict: Side | None
    answer: str | None
    status: str
    correct: bool
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True)
class CompletionReader:
    """Reads the completions of one model.

    Args:
        tokenizer: of the model that wrote them.
        policy: how a verdict is read (`judge.policy`).
        opened: the prompt leaves `<think>` open (`tokenization.opens_think`).
        equivalent: whether an open answer is as good as its reference.
    """

    tokenizer: Decoder
    policy: str
    opened: bool
    equivalent: Equivalence = exact

    def read(self, completion: Completion, task: JudgeTask | AnswerTask) -> Reading:
        """Read one completion of the task's prompt.

        The end-of-turn token belongs to no text; a completion cut at the limit has none.
        """
        finished = completion.finish_reason == "stop"
        tokens = completion.token_ids[:-1] if finished else completion.token_ids
        text = self.tokenizer.decode(tokens)
        if isinstance(task, AnswerTask):
            said = read_answer(text, self.policy, self.opened, finished)
            right = said.answer is not None and self.equivalent(said.answer, task.reference)
            return Reading(tokens, text, None, said.answer, said.status, right, completion.finish_reason)
        parsed = parse_verdict(text, self.policy, self.opened, finished)
        right = parsed.verdict == task.label
        return Reading(tokens, text, parsed.verdict, None, parsed.status, right, completion.finish_reason)

# SPDX-License-Identifier: Apache-2.0
"""Parses completions, in the same way for GRPO, generate, mine and evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from reasongrm_nemo.data.records import AnswerTask, JudgeTask, Side
from reasongrm_nemo.judge import parse_verdict, read_answer
from reasongrm_nemo.judge.open_answers import Equivalence, exact
from reasongrm_nemo.rollout.types import Completion


class Decoder(Protocol):
    """The part of `reasongrm_nemo.models.tokenization.JudgeTokenizer` used for parsing."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of the tokens, including special tokens."""


@dataclass(frozen=True)
class Reading:
    """A parsed completion.

    Attributes:
        tokens: token ids without the end-of-turn token.
        text: text of `tokens`.
        verdict: "A", "B" or None; always None for an `AnswerTask`.
        answer: the open answer to an `AnswerTask`, or None.
        status: `ok`, or why nothing could be parsed (`judge.Parsed`, `judge.OpenAnswer`).
        correct: whether the verdict equals the task's label, or the answer is equivalent to its reference.
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
    """Parses the completions of one model.

    Args:
        tokenizer: tokenizer of the model.
        policy: how to parse a verdict (`judge.policy`).
        opened: whether the prompt leaves `<think>` open (`tokenization.opens_think`).
        equivalent: returns whether an open answer is equivalent to its reference.
    """

    tokenizer: Decoder
    policy: str
    opened: bool
    equivalent: Equivalence = exact

    def read(self, completion: Completion, task: JudgeTask | AnswerTask) -> Reading:
        """Parse one completion of the task's prompt.

        The end-of-turn token, which a completion truncated at the limit lacks, is not part of the text.
        """
        finished = completion.finish_reason == "stop"
        tokens = completion.token_ids[:-1] if finished else completion.token_ids
        text = self.tokenizer.decode(tokens)
        if isinstance(task, AnswerTask):
            parsed = read_answer(text, self.policy, self.opened, finished)
            right = parsed.answer is not None and self.equivalent(parsed.answer, task.reference)
            return Reading(tokens, text, None, parsed.answer, parsed.status, right, completion.finish_reason)
        judged = parse_verdict(text, self.policy, self.opened, finished)
        right = judged.verdict == task.label
        return Reading(tokens, text, judged.verdict, None, judged.status, right, completion.finish_reason)

# SPDX-License-Identifier: Apache-2.0
"""Expresses a response in the tokens of a model that learns or scores it.

If the model has the sampling model's tokenizer, and its prompt ends at the same point of the reasoning, the
sampled tokens are used as they are. Otherwise the text is adapted to the end of the model's prompt and
tokenized, without control tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reasongrm_nemo.judge.think import THINK_CLOSE, THINK_OPEN, begun_by, rest_of_turn, whole_turn
from reasongrm_nemo.models.tokenization.tokenizer import JudgeTokenizer, response_ids

_BROKEN = "\N{REPLACEMENT CHARACTER}"


class Unfit(Exception):
    """A response that cannot be expressed for another model; the message is the reason, as a phrase."""


@dataclass(frozen=True)
class Response:
    """A model's response; fields as in `ReasoningPath`, None if an earlier version did not record them."""

    text: str
    begun: str | None = None
    token_ids: Sequence[int] | None = None
    tokenizer: str | None = None


class Reteller:
    """Expresses responses in the tokens of one model.

    Args:
        tokenizer: the model's tokenizer.
        prefix: the end of the model's prompts (`judge.response_prefix`).
    """

    def __init__(self, tokenizer: JudgeTokenizer, prefix: str) -> None:
        self._tokenizer = tokenizer
        self.begun = begun_by(tokenizer.opening + prefix)

    def as_sampled(self, response: Response) -> bool:
        """Whether the response's sampled tokens are valid for this model."""
        whose = response.begun, response.tokenizer
        return response.token_ids is not None and whose == (self.begun, self._tokenizer.digest)

    def tokens(self, response: Response) -> list[int]:
        """The response's tokens after this model's prompt, without an end-of-turn token.

        Raises:
            Unfit: the reasoning is not in one pair of tags, or contains a broken character.
        """
        if self.as_sampled(response):
            return list(response.token_ids or ())
        text = self._text(response)
        if _BROKEN in text:  # an incomplete character, which other tokens would render as U+FFFD thrice
            raise Unfit("with a broken character (U+FFFD)")
        return response_ids(self._tokenizer, text)

    def _text(self, response: Response) -> str:
        text, begun = response.text, response.begun
        if begun == self.begun and response.tokenizer in (None, self._tokenizer.digest):
            return text  # written for a prompt of this form
        turn = whole_turn(text, begun)
        if turn is not None:
            return rest_of_turn(turn, self.begun)
        untagged = THINK_OPEN not in text and THINK_CLOSE not in text
        if begun is None and untagged and not self.begun:
            return text  # no reasoning in the text, and none expected by this model's prompt
        raise Unfit("without one pair of think tags around its reasoning")

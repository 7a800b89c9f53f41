# SPDX-License-Identifier: Apache-2.0
"""A response in the tokens of a model that learns or scores it, whoever wrote it.

What was sampled stays what it is: where the model has the writer's tokenizer and its prompt leaves the
reasoning where the writer's did, the tokens are the sampled ones. Elsewhere the text is put into the form
that the model's own prompt goes on with, and into its tokens, of which none is a control token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reasongrm_nemo.judge.think import THINK_CLOSE, THINK_OPEN, begun_by, rest_of_turn, whole_turn
from reasongrm_nemo.models.tokenization.tokenizer import JudgeTokenizer, response_ids

_BROKEN = "\N{REPLACEMENT CHARACTER}"


class Unfit(Exception):
    """A response that cannot be given to another model; the message is why, as the end of a sentence."""


@dataclass(frozen=True)
class Response:
    """What a model wrote; fields as of `ReasoningPath`, None where an earlier version did not keep them."""

    text: str
    begun: str | None = None
    token_ids: Sequence[int] | None = None
    tokenizer: str | None = None


class Reteller:
    """Gives responses to one model.

    Args:
        tokenizer: the model's.
        prefix: what its prompts end with (`judge.response_prefix`).
    """

    def __init__(self, tokenizer: JudgeTokenizer, prefix: str) -> None:
        self._tokenizer = tokenizer
        self.begun = begun_by(tokenizer.opening + prefix)

    def as_sampled(self, response: Response) -> bool:
        """Whether the response's own tokens are those that this model would have sampled."""
        whose = response.begun, response.tokenizer
        return response.token_ids is not None and whose == (self.begun, self._tokenizer.digest)

    def tokens(self, response: Response) -> list[int]:
        """The response's tokens after this model's prompt, without an end-of-turn token.

        Raises:
            Unfit: the reasoning is not between one pair of tags, or a character of it is broken.
        """
        if self.as_sampled(response):
            return list(response.token_ids or ())
        text = self._text(response)
        if _BROKEN in text:  # half a character, of which other tokens would make three of U+FFFD
            raise Unfit("with a broken character (U+FFFD)")
        return response_ids(self._tokenizer, text)

    def _text(self, response: Response) -> str:
        text, begun = response.text, response.begun
        if begun == self.begun and response.tokenizer in (None, self._tokenizer.digest):
            return text  # as it was written for this very form
        turn = whole_turn(text, begun)
        if turn is not None:
            return rest_of_turn(turn, self.begun)
        untagged = THINK_OPEN not in text and THINK_CLOSE not in text
        if begun is None and untagged and not self.begun:
            return text  # no judge's, and this model's prompt asks for no reasoning
        raise Unfit("without one pair of think tags around its reasoning")

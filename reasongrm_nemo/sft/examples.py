# SPDX-License-Identifier: Apache-2.0
"""Tokenizes SFT examples for the model to train; free of torch, used by the stage and by trainer ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from reasongrm_nemo.data.records import SftExample
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models.tokenization import (
    Response,
    Reteller,
    Unfit,
    load_tokenizer,
    prompt_ids,
    stop_token_ids,
)


class Tokens(NamedTuple):
    """An example's token ids (prompt, response, end-of-turn token) and the length of its prompt."""

    ids: tuple[int, ...]
    prompt_length: int


class Examples:
    """Tokenizes, checks and splits examples as a recipe says.

    Args:
        recipe: recipe of stage ``sft``.
        model: Hugging Face folder of the model to train.
    """

    def __init__(self, recipe: Any, model: Path) -> None:
        self._tokenizer = load_tokenizer(model, recipe.judge.date)
        self._end_of_turn = stop_token_ids(self._tokenizer, model)[0]
        self._reteller = Reteller(self._tokenizer, recipe.judge.response_prefix)
        self._prefix, self._seed = recipe.judge.response_prefix, recipe.seed
        self._limit, validation = recipe.model.max_model_len, recipe.sft.validation
        self._fraction = validation.fraction if validation.every else 0.0

    def tokens(self, example: SftExample) -> Tokens:
        """Token ids of the rollout prompt, the path as response, and the end-of-turn token.

        The beginning of the assistant's turn that the chat template and ``judge.response_prefix`` write is
        part of the prompt, because a judge does not sample it.

        Raises:
            UserError: the chat template refuses the turns.
            Unfit: the path cannot be expressed in this model's tokens.
        """
        before = prompt_ids(self._tokenizer, example.messages[:-1], self._prefix)
        path = self._reteller.tokens(self._response(example))
        return Tokens((*before, *path, self._end_of_turn), len(before))

    def _response(self, example: SftExample) -> Response:
        text, begun = example.messages[-1]["content"], example.begun
        if begun is not None:
            return Response(text.removeprefix(begun), begun, example.token_ids, example.tokenizer)
        if self._prefix and text.startswith(self._prefix):  # earlier versions stored the prefix in the text
            return Response(text.removeprefix(self._prefix), self._reteller.begun)
        return Response(text)

    def refusal(self, example: SftExample) -> str | None:
        """Why an example cannot be trained on, or None."""
        try:
            length = len(self.tokens(example).ids)
        except Unfit as why:
            return f"example {why}"
        except UserError:  # a chat template may require alternating turns, or no system turn
            return "example whose turns the chat template refuses"
        return "example longer than model.max_model_len" if length > self._limit else None

    def held_out(self, example: SftExample) -> bool:
        """Whether an example is held out for ``sft.validation``, decided by a hash of its task id."""
        return derive_seed(self._seed, "sft validation", example.task_id) < self._fraction * 2**63

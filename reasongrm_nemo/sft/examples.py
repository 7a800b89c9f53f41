# SPDX-License-Identifier: Apache-2.0
"""SFT examples in the tokens of the model that learns them; without torch, for stage and ranks."""

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
    """An example as it is trained on: prompt, response and the end-of-turn token; the prompt's length."""

    ids: tuple[int, ...]
    prompt_length: int


class Examples:
    """What a recipe makes of examples.

    Args:
        recipe: of stage ``sft``.
        model: Hugging Face folder of the model that learns.
    """

    def __init__(self, recipe: Any, model: Path) -> None:
        self._tokenizer = load_tokenizer(model, recipe.judge.date)
        self._end_of_turn = stop_token_ids(self._tokenizer, model)[0]
        self._reteller = Reteller(self._tokenizer, recipe.judge.response_prefix)
        self._prefix, self._seed = recipe.judge.response_prefix, recipe.seed
        self._limit, validation = recipe.model.max_model_len, recipe.sft.validation
        self._fraction = validation.fraction if validation.every else 0.0

    def tokens(self, example: SftExample) -> Tokens:
        """Prompt as it would be rolled out, the path as the response, ended by the end-of-turn token.

        What the chat template and ``judge.response_prefix`` write of the assistant's turn is given, not
        sampled: it is part of the prompt.

        Raises:
            UserError: the chat template refuses the turns.
            Unfit: the path cannot be put into this model's tokens.
        """
        before = prompt_ids(self._tokenizer, example.messages[:-1], self._prefix)
        path = self._reteller.tokens(self._response(example))
        return Tokens((*before, *path, self._end_of_turn), len(before))

    def _response(self, example: SftExample) -> Response:
        text, begun = example.messages[-1]["content"], example.begun
        if begun is not None:
            return Response(text.removeprefix(begun), begun, example.token_ids, example.tokenizer)
        if self._prefix and text.startswith(self._prefix):  # as earlier versions put it in front
            return Response(text.removeprefix(self._prefix), self._reteller.begun)
        return Response(text)

    def refusal(self, example: SftExample) -> str | None:
        """Why an example cannot be trained on, or None."""
        try:
            length = len(self.tokens(example).ids)
        except Unfit as why:
            return f"example {why}"
        except UserError:  # a chat template may want turns to alternate, or no system's turn
            return "example whose turns the chat template refuses"
        return "example longer than model.max_model_len" if length > self._limit else None

    def held_out(self, example: SftExample) -> bool:
        """Whether it is for ``sft.validation``: by a hash of its task."""
        return derive_seed(self._seed, "sft validation", example.task_id) < self._fraction * 2**63

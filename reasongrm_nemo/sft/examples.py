# SPDX-License-Identifier: Apache-2.0
"""SFT examples in the tokens of the model that learns them; without torch, for stage and ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from reasongrm_nemo.data.records import SftExample
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.tokenization import load_tokenizer, prompt_ids, response_ids, stop_token_ids


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
        self._prefix, self._seed = recipe.judge.response_prefix, recipe.seed
        self._limit, validation = recipe.model.max_model_len, recipe.sft.validation
        self._fraction = validation.fraction if validation.every else 0.0

    def tokens(self, example: SftExample) -> Tokens:
        """Prompt as it would be rolled out, the path as the response, ended by the end-of-turn token.

        ``judge.response_prefix`` begins the assistant's turn but is given, not written: it is part of the
        prompt.
        """
        *prompt, answer = example.messages
        before = prompt_ids(self._tokenizer, prompt, self._prefix)
        path = response_ids(self._tokenizer, answer["content"].removeprefix(self._prefix))
        return Tokens((*before, *path, self._end_of_turn), len(before))

    def refusal(self, example: SftExample) -> str | None:
        """Why an example cannot be trained on, or None."""
        try:
            length = len(self.tokens(example).ids)
        except UserError:  # a chat template may want turns to alternate, or no system's turn
            return "example whose turns the chat template refuses"
        return "example longer than model.max_model_len" if length > self._limit else None

    def held_out(self, example: SftExample) -> bool:
        """Whether it is for ``sft.validation``: by a hash of its task."""
        return derive_seed(self._seed, "sft validation", example.task_id) < self._fraction * 2**63

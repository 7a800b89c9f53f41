# SPDX-License-Identifier: Apache-2.0
"""A judge's tokenizer: prompts, responses, and end-of-turn tokens."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge.think import THINK_CLOSE, THINK_OPEN, left_open
from reasongrm_nemo.models.tokenization.chat_template import ChatTemplate
from reasongrm_nemo.models.tokenization.folder import json_object, read_folder

# A user message that occurs in no template, to locate the text after it.
_PROBE = "probe-8f14e45f"


class JudgeTokenizer:
    """A fast tokenizer and its chat template.

    Attributes:
        eos_token_id: the end-of-turn token, or None.
        pad_token_id: the padding token, or None.
        vocab_size: number of entries, including added tokens.
        added_tokens: texts that are always tokenized as one token.
        special_tokens: added tokens that act as control tokens: those marked as special, and those used by
            the chat template.
    """

    def __init__(self, folder: Path, date: str | None = None) -> None:
        read = read_folder(folder)
        self.folder = folder
        self._fast, self._named = read.fast, read.named
        self.eos_token_id: int | None = self._special_id("eos_token")
        self.pad_token_id: int | None = self._special_id("pad_token")
        self.vocab_size: int = self._fast.get_vocab_size(with_added_tokens=True)
        self._template = ChatTemplate(folder, self._named, date)
        added = self._fast.get_added_tokens_decoder().values()
        self.added_tokens: tuple[str, ...] = tuple(token.content for token in added)
        self.special_tokens: tuple[str, ...] = tuple(
            token.content for token in added if token.special or self._template.writes(token.content)
        )
        self._pieces: dict[int, str] = {}

    def _special_id(self, name: str) -> int | None:
        return self._fast.token_to_id(self._named[name]) if name in self._named else None

    @cached_property
    def digest(self) -> str:
        """A hash that is equal for tokenizers that tokenize every text the same."""
        whole = f"{self._fast.encode_special_tokens} {self._fast.to_str()}"
        return hashlib.sha256(whole.encode()).hexdigest()

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        """Render messages with the chat template.

        Raises:
            UserError: the template refuses the messages.
        """
        return self._template.render(messages, add_generation_prompt)

    @cached_property
    def opening(self) -> str:
        r"""The chat template's text between the user's turn and the response.

        Qwen2.5's is `<|im_end|>\n<|im_start|>assistant\n`; QwQ's continues with `<think>\n`.
        """
        probe = self.render([{"role": "user", "content": _PROBE}], add_generation_prompt=True)
        return probe.rpartition(_PROBE)[2]

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without added special tokens."""
        return self._fast.encode(text, add_special_tokens=False).ids  # type: ignore[no-any-return]

    def encode_plain(self, text: str) -> list[int]:
        """Like `encode`, but only think tags may become special tokens."""
        tags = [tag for tag in (THINK_OPEN, THINK_CLOSE) if tag in self.special_tokens]
        parts = re.split("|".join(f"({tag})" for tag in tags), text) if tags else [text]
        before = self._fast.encode_special_tokens
        self._fast.encode_special_tokens = True
        try:
            pieces = [
                [self._fast.token_to_id(part)] if part in tags else self.encode(part)
                for part in parts
                if part
            ]
        finally:
            self._fast.encode_special_tokens = before
        return [token for piece in pieces for token in piece]

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of the tokens, including special tokens."""
        return self._fast.decode(list(token_ids), skip_special_tokens=False)  # type: ignore[no-any-return]

    def piece(self, token_id: int) -> str:
        """Text of a single token. Incomplete characters become U+FFFD; ASCII, as in all markers, is exact."""
        if token_id not in self._pieces:
            self._pieces[token_id] = self.decode([token_id])
        return self._pieces[token_id]


def load_tokenizer(hf_dir: str | Path, date: str | None = None) -> JudgeTokenizer:
    """Load the tokenizer of a Hugging Face folder.

    Args:
        hf_dir: the folder.
        date: date as YYYY-MM-DD for chat templates that ask for today's (`judge.date`).

    Raises:
        UserError: the folder, tokenizer.json or chat template is missing.
    """
    return JudgeTokenizer(Path(hf_dir), date)


def prompt_ids(
    tokenizer: JudgeTokenizer, messages: Sequence[Mapping[str, str]], prefix: str = ""
) -> list[int]:
    """Tokens of a judge's prompt: the rendered chat, the opening of the assistant's turn, then `prefix`.

    Args:
        tokenizer: from `load_tokenizer`.
        messages: `{role, content}` of the system's and the user's turns.
        prefix: forced beginning of the assistant's turn (`judge.response_prefix`); as part of the prompt, it
            is neither trained on nor scored.
    """
    return tokenizer.encode(tokenizer.render(messages, add_generation_prompt=True) + prefix)


def opens_think(tokenizer: JudgeTokenizer, prefix: str = "") -> bool:
    """Whether a judge's prompt leaves `<think>` open, in which case a response begins with its reasoning.

    Args:
        tokenizer: from `load_tokenizer`.
        prefix: as for `prompt_ids`.
    """
    return left_open(tokenizer.opening + prefix)


def response_ids(tokenizer: JudgeTokenizer, text: str) -> list[int]:
    """Tokens of a response's text, without an end-of-turn token.

    Text that spells a control token is tokenized as plain text, so it cannot end a turn; think tags become
    their special tokens, if the model has them.
    """
    return tokenizer.encode_plain(text)


def stop_token_ids(tokenizer: JudgeTokenizer, hf_dir: str | Path) -> list[int]:
    """Tokens that end a turn: the tokenizer's, then those of generation_config.json and config.json.

    Raises:
        UserError: none of them names a token, or a file names an invalid one.
    """
    ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for name in ("generation_config.json", "config.json"):
        ids += _ends(Path(hf_dir) / name)
    if not ids:
        raise UserError(
            f"{hf_dir}: neither the tokenizer nor generation_config.json names an end-of-turn token; set "
            "eos_token_id in generation_config.json"
        )
    return list(dict.fromkeys(ids))


_MOST_TOKENS = 1 << 31  # engines keep a token in 32 bits


def _ends(path: Path) -> Iterator[int]:
    value: Any = json_object(path).get("eos_token_id")
    for token in value if isinstance(value, list) else [] if value is None else [value]:
        if type(token) is not int or not 0 <= token < _MOST_TOKENS:
            raise UserError(
                f"{path}: eos_token_id is {value!r}; it must be a token id or a list of token ids"
            )
        yield token

# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of a judge: what it writes for messages and responses, and what ends a turn."""

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

# What the user's turn says where only the text around it matters; no template writes this by itself.
_PROBE = "probe-8f14e45f"


class JudgeTokenizer:
    """A fast tokenizer and its chat template.

    Attributes:
        eos_token_id: the end-of-turn token, or None.
        pad_token_id: the padding token, or None.
        vocab_size: entries, added tokens included.
        added_tokens: the texts that are one token wherever they stand.
        special_tokens: the texts that become control tokens wherever they stand: those marked so, and others
            that the chat template writes.
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
        """Equal for two tokenizers that give every text the same tokens."""
        whole = f"{self._fast.encode_special_tokens} {self._fast.to_str()}"
        return hashlib.sha256(whole.encode()).hexdigest()

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        """The chat template's text.

        Raises:
            UserError: the template refuses these messages.
        """
        return self._template.render(messages, add_generation_prompt)

    @cached_property
    def opening(self) -> str:
        r"""What the chat template puts between the user's turn and the response.

        Qwen2.5's is `<|im_end|>\n<|im_start|>assistant\n`; QwQ's goes on with `<think>\n`.
        """
        probe = self.render([{"role": "user", "content": _PROBE}], add_generation_prompt=True)
        return probe.rpartition(_PROBE)[2]

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, nothing added."""
        return self._fast.encode(text, add_special_tokens=False).ids  # type: ignore[no-any-return]

    def encode_plain(self, text: str) -> list[int]:
        """As `encode`, but only think tags may become special tokens."""
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
        """The text of tokens, special ones included."""
        return self._fast.decode(list(token_ids), skip_special_tokens=False)  # type: ignore[no-any-return]

    def piece(self, token_id: int) -> str:
        """One token's own text. Part of a character comes out as U+FFFD; ASCII, so every marker, is exact."""
        if token_id not in self._pieces:
            self._pieces[token_id] = self.decode([token_id])
        return self._pieces[token_id]


def load_tokenizer(hf_dir: str | Path, date: str | None = None) -> JudgeTokenizer:
    """The tokenizer of a Hugging Face folder.

    Args:
        hf_dir: the folder.
        date: YYYY-MM-DD that a chat template is told where it asks for today's (`judge.date`).

    Raises:
        UserError: no folder, no tokenizer.json, or no chat template.
    """
    return JudgeTokenizer(Path(hf_dir), date)


def prompt_ids(
    tokenizer: JudgeTokenizer, messages: Sequence[Mapping[str, str]], prefix: str = ""
) -> list[int]:
    """Tokens of a judge's prompt: the chat template with its opening of the assistant's turn, then `prefix`.

    Args:
        tokenizer: from `load_tokenizer`.
        messages: `{role, content}` of the system's and the user's turns.
        prefix: text the assistant's turn is made to begin with (`judge.response_prefix`). It belongs to the
            prompt: it is neither trained on nor scored.
    """
    return tokenizer.encode(tokenizer.render(messages, add_generation_prompt=True) + prefix)


def opens_think(tokenizer: JudgeTokenizer, prefix: str = "") -> bool:
    """True if a judge's prompt leaves `<think>` open, so that a response begins inside its reasoning.

    Args:
        tokenizer: from `load_tokenizer`.
        prefix: as for `prompt_ids`.
    """
    return left_open(tokenizer.opening + prefix)


def response_ids(tokenizer: JudgeTokenizer, text: str) -> list[int]:
    """Tokens of a response's text, with no end-of-turn token added.

    A text that spells a control token is split like any other, so that it ends no turn; of the think tags
    each is the one token that it is to the model, where there is one.
    """
    return tokenizer.encode_plain(text)


def stop_token_ids(tokenizer: JudgeTokenizer, hf_dir: str | Path) -> list[int]:
    """The tokens that end a turn, the tokenizer's own first, then those of generation_config and config.

    Raises:
        UserError: none of them names one, or a file names what is no token.
    """
    ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for name in ("generation_config.json", "config.json"):
        ids += _ends(Path(hf_dir) / name)
    if not ids:
        raise UserError(
            f"{hf_dir}: neither the tokenizer nor generation_config.json names an end-of-turn token"
        )
    return list(dict.fromkeys(ids))


_MOST_TOKENS = 1 << 31  # engines keep a token in 32 bits


def _ends(path: Path) -> Iterator[int]:
    value: Any = json_object(path).get("eos_token_id")
    for token in value if isinstance(value, list) else [] if value is None else [value]:
        if type(token) is not int or not 0 <= token < _MOST_TOKENS:
            raise UserError(f"{path}: eos_token_id is {value!r}, which is neither a token nor a list of them")
        yield token

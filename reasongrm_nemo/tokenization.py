# SPDX-License-Identifier: Apache-2.0
"""Tokens of prompts and responses, the same in every stage.

Reads a Hugging Face folder's tokenizer.json and chat template with `tokenizers` and `jinja2` alone, so that
the command line and the light stages start without torch. A test holds it equal to transformers' own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge.think import left_open

# What the user's turn says where only the text around it matters; no template writes this by itself.
_PROBE = "probe-8f14e45f"


class JudgeTokenizer:
    """A fast tokenizer and its chat template.

    Attributes:
        eos_token_id: the end-of-turn token, or None.
        pad_token_id: the padding token, or None.
        vocab_size: entries, added tokens included.
        special_tokens: the texts that become control tokens wherever they stand.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        for name in ("tokenizer.json", "tokenizer_config.json"):
            if not (folder / name).is_file():
                raise UserError(
                    f"{folder} holds no {name}; it is not a Hugging Face model folder with a fast tokenizer"
                )
        self.folder = folder
        try:
            self._fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
            config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        except Exception as error:  # tokenizers raises bare Exception
            raise UserError(f"{folder}: the tokenizer cannot be read ({error})") from None
        self._fast.no_padding()
        self._fast.no_truncation()
        self._special = {
            name: value if isinstance(value, str) else value["content"]
            for name, value in config.items()
            if name in ("bos_token", "eos_token", "pad_token", "unk_token") and value is not None
        }
        self.eos_token_id: int | None = self._special_id("eos_token")
        self.pad_token_id: int | None = self._special_id("pad_token")
        self.vocab_size: int = self._fast.get_vocab_size(with_added_tokens=True)
        added = self._fast.get_added_tokens_decoder().values()
        self.special_tokens: tuple[str, ...] = tuple(token.content for token in added if token.special)
        self._template = _compile(_template_text(folder, config))
        self._pieces: dict[int, str] = {}

    def _special_id(self, name: str) -> int | None:
        return self._fast.token_to_id(self._special[name]) if name in self._special else None

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        """The chat template's text.

        Raises:
            UserError: the template refuses these messages.
        """
        from jinja2 import TemplateError

        try:
            return self._template.render(
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self._special,
            )
        except TemplateError as error:
            raise UserError(f"the chat template of {self.folder} refuses the messages: {error}") from None

    @cached_property
    def opening(self) -> str:
        r"""What the chat template puts between the user's turn and the response.

        Qwen2.5's is `<|im_end|>\\n<|im_start|>assistant\n`; QwQ's goes on with `<think>\n`.
        """
        probe = self.render([{"role": "user", "content": _PROBE}], add_generation_prompt=True)
        return probe.rpartition(_PROBE)[2]

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, nothing added."""
        return self._fast.encode(text, add_special_tokens=False).ids  # type: ignore[no-any-return]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, special ones included."""
        return self._fast.decode(list(token_ids), skip_special_tokens=False)  # type: ignore[no-any-return]

    def piece(self, token_id: int) -> str:
        """One token's own text. Part of a character comes out as U+FFFD; ASCII, so every marker, is exact."""
        if token_id not in self._pieces:
            self._pieces[token_id] = self.decode([token_id])
        return self._pieces[token_id]


def load_tokenizer(hf_dir: str | Path) -> JudgeTokenizer:
    """The tokenizer of a Hugging Face folder.

    Raises:
        UserError: no folder, no tokenizer.json, or no chat template.
    """
    return JudgeTokenizer(Path(hf_dir))


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
    """Tokens of a response's text, with no end-of-turn token added."""
    return tokenizer.encode(text)


def stop_token_ids(tokenizer: JudgeTokenizer, hf_dir: str | Path) -> list[int]:
    """The tokens that end a turn, the tokenizer's own first, then those of generation_config and config.

    Raises:
        UserError: none of them names one.
    """
    found: list[int | None] = [tokenizer.eos_token_id]
    for name in ("generation_config.json", "config.json"):
        path = Path(hf_dir) / name
        if path.is_file():
            value = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
            found += value if isinstance(value, list) else [value]
    kept = list(dict.fromkeys(token for token in found if token is not None))
    if not kept:
        raise UserError(
            f"{hf_dir}: neither the tokenizer nor generation_config.json names an end-of-turn token"
        )
    return kept


def _template_text(folder: Path, config: Mapping[str, Any]) -> str:
    """The file of its own goes before tokenizer_config.json's, as in transformers 4.51 and 5."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        template = next((item["template"] for item in template if item["name"] == "default"), None)
    if template is None:
        raise UserError(f"{folder / 'tokenizer_config.json'} has no chat_template; a judge needs one")
    return str(template)


def _compile(template: str) -> Any:
    """As transformers compiles chat templates: sandboxed, blocks trimmed, the same three helpers."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(template)
    except TemplateError as error:
        raise UserError(f"the chat template cannot be read: {error}") from None

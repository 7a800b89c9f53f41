# SPDX-License-Identifier: Apache-2.0
"""Compiles and renders a Hugging Face folder's chat template as transformers does.

The only difference: `strftime_now` returns a fixed date instead of today's, so a run renders the same prompts
on every day and rank.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import read_text
from reasongrm_nemo.models.tokenization.folder import json_object


class MessagesRefused(UserError):
    """The template refuses these messages; it may accept others."""


class ChatTemplate:
    """A compiled template.

    Args:
        folder: folder with the template.
        variables: variables besides the messages: the special tokens by name.
        date: date as YYYY-MM-DD for the template; None: a template that asks for the date is an error.

    Raises:
        UserError: there is no template, or it does not compile.
    """

    def __init__(self, folder: Path, variables: Mapping[str, Any], date: str | None) -> None:
        self.folder, self._variables = folder, dict(variables)
        environment = _environment()
        environment.globals["strftime_now"] = _clock(folder, date)
        self._text = template_text(folder)
        try:
            self._template = environment.from_string(self._text)
        except Exception as error:  # any exception of jinja2 here is a fault of the template
            line = getattr(error, "lineno", None)
            where = f" (line {line})" if line else ""
            raise UserError(f"the chat template of {folder} cannot be read: {_words(error)}{where}") from None

    def writes(self, token: str) -> bool:
        """Whether the template contains a token's text; False for white space."""
        return bool(token.strip()) and token in self._text

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        """Render messages; MessagesRefused if the template refuses the messages or fails on them."""
        try:
            return self._template.render(  # type: ignore[no-any-return]
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self._variables,
            )
        except UserError:
            raise
        except Exception as error:  # a template can raise anything, e.g. by dividing, indexing, recursing
            raise MessagesRefused(
                f"the chat template of {self.folder} refuses the messages: {_words(error)}"
            ) from None


def template_text(folder: Path) -> str:
    """The default template; a template file takes precedence over tokenizer_config.json.

    transformers 5 also reads additional_chat_templates/, transformers 4 does not; if both find a default
    template, it is the same one.

    Raises:
        UserError: there is no template, or it is not text.
    """
    for name in ("chat_template.jinja", "additional_chat_templates/default.jinja"):
        if os.path.lexists(folder / name):
            return read_text(folder / name)
    file = folder / "tokenizer_config.json"
    template = json_object(file).get("chat_template")
    if template is None:
        raise UserError(f"{file} has no chat_template; a judge needs one")
    named = _by_name(template)
    if named is None:
        raise UserError(
            f"chat_template in {file} is neither a string nor named strings; a judge needs a default template"
        )
    if "default" not in named:
        names = ", ".join(sorted(named))
        raise UserError(
            f"{file} has no default among its chat templates {names}; rename the one to use to default"
        )
    return named["default"]


def asks_for_date(folder: Path) -> bool:
    """Whether the default template uses `strftime_now`; False if the template cannot be read."""
    from jinja2.meta import find_undeclared_variables

    try:
        return "strftime_now" in find_undeclared_variables(_environment().parse(template_text(folder)))
    except Exception:
        return False  # rendering will raise the error


def _by_name(template: Any) -> dict[str, str] | None:
    """Templates by name, from any form that transformers reads: a string, a mapping, a list of mappings."""
    if isinstance(template, str):
        return {"default": template}
    if isinstance(template, list):
        try:
            template = {item["name"]: item["template"] for item in template}
        except (TypeError, KeyError):
            return None
    texts = isinstance(template, dict) and all(isinstance(text, str) for text in template.values())
    return template if texts else None


def _environment() -> Any:
    """A jinja2 environment like transformers': sandboxed, blocks trimmed, same helpers and extensions."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks the model's part of a chat; here it is rendered as plain text."""

        tags = {"generation"}  # noqa: RUF012 - declared like this in jinja2

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("text"), [], [], body).set_lineno(line)

        def text(self, caller: Callable[[], str]) -> str:
            return caller()

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    return environment


def _clock(folder: Path, date: str | None) -> Callable[[str], str]:
    def strftime_now(form: str) -> str:
        if date is None:
            raise UserError(
                f"the chat template of {folder} asks for today's date, and no date is fixed; set judge.date"
            )
        return datetime.fromisoformat(date).strftime(form)

    return strftime_now


def _words(error: Exception) -> str:
    """An exception in one line, with its type unless raised by the template."""
    from jinja2 import TemplateError

    text = " ".join(str(error).split())
    return text if text and isinstance(error, TemplateError) else f"{type(error).__name__}: {text}"

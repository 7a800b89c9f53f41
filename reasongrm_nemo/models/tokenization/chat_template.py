# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face folder's chat template, compiled and rendered as transformers does.

One thing differs: a template that asks for today's date (`strftime_now`) is told a fixed one, so that a run
renders the same prompts on each day and every rank.
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
    """A template does not take these messages; it may take others."""


class ChatTemplate:
    """A compiled template.

    Args:
        folder: where it stands.
        variables: what it may use besides the messages: the special tokens by name.
        date: YYYY-MM-DD of the day it is told; None: a template that asks for it is refused.

    Raises:
        UserError: there is none, or it is no template.
    """

    def __init__(self, folder: Path, variables: Mapping[str, Any], date: str | None) -> None:
        self.folder, self._variables = folder, dict(variables)
        environment = _environment()
        environment.globals["strftime_now"] = _clock(folder, date)
        self._text = template_text(folder)
        try:
            self._template = environment.from_string(self._text)
        except Exception as error:  # whatever jinja2 raises on a template is about that template
            line = getattr(error, "lineno", None)
            where = f" (line {line})" if line else ""
            raise UserError(f"the chat template of {folder} cannot be read: {_words(error)}{where}") from None

    def writes(self, token: str) -> bool:
        """Whether the template spells a token, white space aside, which stands in any template."""
        return bool(token.strip()) and token in self._text

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        """The template's text; MessagesRefused where it refuses the messages or cannot cope with them."""
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
        except Exception as error:  # a template can raise anything: it divides, indexes, recurses
            raise MessagesRefused(
                f"the chat template of {self.folder} refuses the messages: {_words(error)}"
            ) from None


def template_text(folder: Path) -> str:
    """The default template: a file of its own goes before tokenizer_config.json's.

    transformers 5 reads additional_chat_templates/ too, transformers 4 does not; where both find a default
    one, it is the same.

    Raises:
        UserError: there is none, or it is no text.
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
            f"chat_template in {file} is neither a text nor texts by name; a judge needs its default template"
        )
    if "default" not in named:
        names = ", ".join(sorted(named))
        raise UserError(
            f"{file} has no default among its chat templates {names}; name the one to use default"
        )
    return named["default"]


def asks_for_date(folder: Path) -> bool:
    """Whether the default template uses `strftime_now`; False where it cannot be read."""
    from jinja2.meta import find_undeclared_variables

    try:
        return "strftime_now" in find_undeclared_variables(_environment().parse(template_text(folder)))
    except Exception:
        return False  # whoever renders it says what is wrong


def _by_name(template: Any) -> dict[str, str] | None:
    """Templates by name of any of the forms that transformers reads: a text, a mapping, a list of both."""
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
    """As transformers compiles chat templates: sandboxed, blocks trimmed, with its helpers and extensions."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what the model writes; here its text alone counts."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

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
    """An exception in one line, with its kind where that says more than its words."""
    from jinja2 import TemplateError

    text = " ".join(str(error).split())
    return text if text and isinstance(error, TemplateError) else f"{type(error).__name__}: {text}"

# SPDX-License-Identifier: Apache-2.0
"""The judge's prompt: YAML templates, filled in without letting data act as markup."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import YAML_LIMIT, check_size, read_text
from reasongrm_nemo.judge.sanitize import CHAT_SPECIAL_TOKENS, sanitize

Message = dict[str, str]

PLACEHOLDERS = ("conversation", "question", "answer_a", "answer_b")
ROLE_TAGS = ("system", "user", "assistant", "tool")
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_TAG = re.compile(r"</?([^\W\d][\w.:-]*)(?:\s[^<>]*)?/?>")


@dataclass(frozen=True)
class Template:
    """A judge prompt.

    Placeholders: `{answer_a}` and `{answer_b}`; `{conversation}`, all turns in tags named by role; and
    `{question}`, the plain text if the conversation is one user turn, else the same as `{conversation}`.
    XML-like tags in the template are delimiters; `build_messages` breaks them up inside data.
    """

    name: str
    description: str
    user: str
    system: str | None = None

    @cached_property
    def tags(self) -> tuple[str, ...]:
        """Names of the template's delimiters, which data must not contain."""
        return tuple(sorted({*_TAG.findall(f"{self.system or ''}{self.user}"), *ROLE_TAGS}))

    @property
    def digest(self) -> str:
        """SHA-256 of the wording, for manifests; a template file may change without changing its name."""
        return hashlib.sha256(f"{self.system!r}\n{self.user!r}".encode()).hexdigest()


def built_in_templates() -> list[str]:
    """Names of the built-in templates."""
    folder = resources.files("reasongrm_nemo.judge") / "templates"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_template(name_or_path: str | Path) -> Template:
    """Load a built-in template by name, or a YAML file (a name that ends in .yaml or .yml or contains a /).

    Raises:
        UserError: unknown name, unreadable file, or an unknown or missing key or placeholder.
    """
    given = str(name_or_path)
    if given.endswith((".yaml", ".yml")) or "/" in given:
        try:
            text = read_text(Path(given), YAML_LIMIT)
        except UserError as error:
            raise UserError(f"Template {given} cannot be read: {error}") from None
        return _parse(text, Path(given).stem, given)
    known = built_in_templates()
    if given not in known:
        near = difflib.get_close_matches(given, known, 1)
        hint = f"did you mean '{near[0]}'?" if near else "name your template file with its .yaml"
        raise UserError(f"Unknown template '{given}'; built in are {', '.join(known)}; {hint}")
    file = resources.files("reasongrm_nemo.judge") / "templates" / f"{given}.yaml"
    return _parse(file.read_text(encoding="utf-8"), given, f"{given}.yaml")


def build_messages(
    template: Template,
    conversation: Sequence[Message],
    answer_a: str,
    answer_b: str,
    special_tokens: Iterable[str] = CHAT_SPECIAL_TOKENS,
) -> list[Message]:
    """Build the judge's prompt: an optional system message and one user message.

    Conversation and answers are sanitized, then filled in in a single pass, which leaves placeholders and
    braces inside them unchanged.

    Args:
        template: from `load_template`.
        conversation: the turns before the answers, each `{role, content}`, at least one.
        answer_a: the answer shown first.
        answer_b: the answer shown second.
        special_tokens: the judging model's special tokens; the default covers common chat formats.

    Raises:
        ValueError: empty conversation.
    """
    if not conversation:
        raise ValueError("The conversation to judge has no turns")
    tokens = tuple(special_tokens)

    def clean(text: str) -> str:
        return sanitize(text, tokens, template.tags)

    turns = [(_role(turn["role"]), clean(turn["content"])) for turn in conversation]
    rendered = "\n".join(f"<{role}>\n{content}\n</{role}>" for role, content in turns)
    bare = len(turns) == 1 and turns[0][0] == "user"
    values = {
        "conversation": rendered,
        "question": turns[0][1] if bare else rendered,
        "answer_a": clean(answer_a),
        "answer_b": clean(answer_b),
    }
    messages = [{"role": "user", "content": _fill(template.user, values)}]
    if template.system is not None:
        messages.insert(0, {"role": "system", "content": _fill(template.system, values)})
    return messages


def _role(role: str) -> str:
    """Tag name of a role; unknown roles, which data may contain, become `tool`."""
    return role if role in ROLE_TAGS else "tool"


def _fill(text: str, values: dict[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: values[match.group(1)], text)


def check_placeholders(system: str, user: str, where: str) -> None:
    """Check that a template has all required placeholders and no unknown ones.

    Raises:
        UserError: a placeholder is missing or unknown; the message begins with ``where``.
    """
    used = _PLACEHOLDER.findall(system + user)
    for placeholder in used:
        if placeholder not in PLACEHOLDERS:
            known = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
            raise UserError(f"{where} has the unknown placeholder {{{placeholder}}}; known are {known}")
    for wanted in (("answer_a",), ("answer_b",), ("conversation", "question")):
        if not set(wanted) & set(used):
            options = " or ".join(f"{{{option}}}" for option in wanted)
            raise UserError(f"{where} lacks the placeholder {options}")


def _parse(text: str, name: str, where: str) -> Template:
    def wrong(fault: str) -> UserError:
        return UserError(f"Template {where} {fault}")

    try:
        check_size(yaml.compose(text, Loader=yaml.SafeLoader))
        data: Any = yaml.safe_load(text)
    except RecursionError:
        raise wrong("is not valid YAML: it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise wrong(f"is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise wrong("must be a mapping with the keys description, user and optionally system")
    for key, value in data.items():
        if key not in ("description", "system", "user"):
            raise wrong(f"has the unknown key '{key}'; known are description, system, user")
        if not isinstance(value, str) or not value.strip():
            raise wrong(f"must have text under the key '{key}'")
    for key in ("description", "user"):
        if key not in data:
            raise wrong(f"lacks the key '{key}'")
    check_placeholders(data.get("system", ""), data["user"], f"Template {where}")
    system = data.get("system")
    return Template(
        name=name,
        description=data["description"].strip(),
        user=data["user"].strip("\n"),
        system=None if system is None else system.strip("\n"),
    )

# SPDX-License-Identifier: Apache-2.0
"""Renders tool calls, their results and the available tools as text for the judge.

A call becomes `[tool call: get_weather({"city": "Oslo"})]`, and its result the text under
`[result of get_weather({"city": "Oslo"})]`. The ids that link a result to its call are not shown, because
they are random and would make equal calls differ.
"""

from __future__ import annotations

import json
from typing import Any

from reasongrm_nemo.data.problems import RowProblem

_ARGUMENTS = ("arguments", "parameters", "input")
RESULT = "[result"


class Calls:
    """Tracks the tool calls of one conversation."""

    def __init__(self) -> None:
        self._by_id: dict[str, str] = {}

    def made(self, call: Any) -> str:
        """Renders a call: OpenAI's with or without `function`, or Anthropic's `tool_use`.

        Raises:
            RowProblem: the call is not an object, or has no name.
        """
        shown = call_text(call)
        if isinstance(call, dict) and isinstance(call.get("id"), str):
            self._by_id[call["id"]] = shown
        return f"[tool call: {shown}]"

    def result(self, turn: dict[str, Any], text: str) -> str:
        """Renders a tool's result, with a line above that names its call if the turn tells."""
        key = turn.get("tool_call_id") or turn.get("tool_use_id")
        shown = self._by_id.get(key) if isinstance(key, str) else None
        of = next((name for name in (shown, turn.get("name"), key) if isinstance(name, str) and name), None)
        return text if of is None else f"{RESULT} of {of}]\n{text}"


def call_text(call: Any) -> str:
    """A call as `name({"argument": 1})`; text in place of a call or of its JSON is kept unchanged.

    Raises:
        RowProblem: the call is not an object, or has no name.
    """
    call = parsed(call)
    if isinstance(call, str) and call.strip():
        return call.strip()
    if not isinstance(call, dict):
        raise RowProblem("tool_call", "a call is not an object")
    inner = call.get("function", call)
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"].strip():
        raise RowProblem("tool_call", "a call has no name")
    given = parsed(next((inner[key] for key in _ARGUMENTS if inner.get(key)), None))
    return f"{inner['name'].strip()}({given if isinstance(given, str) else _json(given) if given else ''})"


def parsed(value: Any) -> Any:
    """The value of a JSON text; anything else unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def tools_text(tools: Any) -> str | None:
    """The tools that the assistant could call, one per line; None if there are none.

    Raises:
        RowProblem: the tools cannot be rendered.
    """
    tools = parsed(tools)
    if not tools:
        return None
    if isinstance(tools, (dict, str)):
        tools = [tools]
    if not isinstance(tools, list):
        raise RowProblem("tool_call", "the tools are not a list")
    return "\n".join(["[tools]", *(tool if isinstance(tool, str) else _json(tool) for tool in tools)])


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise RowProblem("tool_call", "the value cannot be written as JSON") from None

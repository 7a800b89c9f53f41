# SPDX-License-Identifier: Apache-2.0
"""Tool calls, their results and the tools on offer, as the text a judge is shown.

`[tool call: get_weather({"city": "Oslo"})]`, and of its result `[result of get_weather({"city": "Oslo"})]`
above the text.  Ids tie a result to its call and are not shown: they are drawn anew for every answer, so that
equal calls would differ by them.
"""

from __future__ import annotations

import json
from typing import Any

from reasongrm_nemo.data.problems import RowProblem

_ARGUMENTS = ("arguments", "parameters", "input")
RESULT = "[result"


class Calls:
    """The calls of one conversation, as they are made and answered."""

    def __init__(self) -> None:
        self._by_id: dict[str, str] = {}

    def made(self, call: Any) -> str:
        """A call as text: OpenAI's with or without `function`, Anthropic's `tool_use`.

        Raises:
            RowProblem: it is no object, or has no name.
        """
        shown = call_text(call)
        if isinstance(call, dict) and isinstance(call.get("id"), str):
            self._by_id[call["id"]] = shown
        return f"[tool call: {shown}]"

    def result(self, turn: dict[str, Any], text: str) -> str:
        """A tool's turn or part: above the text what it is the result of, where the turn says so."""
        key = turn.get("tool_call_id") or turn.get("tool_use_id")
        shown = self._by_id.get(key) if isinstance(key, str) else None
        of = next((name for name in (shown, turn.get("name"), key) if isinstance(name, str) and name), None)
        return text if of is None else f"{RESULT} of {of}]\n{text}"


def call_text(call: Any) -> str:
    """A call as `name({"argument": 1})`; what a model wrote in place of a call or of JSON, as it stands.

    Raises:
        RowProblem: it is no object, or has no name.
    """
    call = parsed(call)
    if isinstance(call, str) and call.strip():
        return call.strip()
    if not isinstance(call, dict):
        raise RowProblem("tool_call", "a call is no object")
    inner = call.get("function", call)
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"].strip():
        raise RowProblem("tool_call", "a call has no name")
    given = parsed(next((inner[key] for key in _ARGUMENTS if inner.get(key)), None))
    return f"{inner['name'].strip()}({given if isinstance(given, str) else _json(given) if given else ''})"


def parsed(value: Any) -> Any:
    """What a text of JSON holds; the value itself where it is none."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def tools_text(tools: Any) -> str | None:
    """The tools an assistant could call, one a line; None where there are none.

    Raises:
        RowProblem: they cannot be written down.
    """
    tools = parsed(tools)
    if not tools:
        return None
    if isinstance(tools, (dict, str)):
        tools = [tools]
    if not isinstance(tools, list):
        raise RowProblem("tool_call", "the tools are no list")
    return "\n".join(["[tools]", *(tool if isinstance(tool, str) else _json(tool) for tool in tools)])


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise RowProblem("tool_call", "it holds what JSON cannot") from None

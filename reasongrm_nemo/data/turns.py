# SPDX-License-Identifier: Apache-2.0
"""Converts turns of a conversation, in the variants that data sets use, into plain messages.

A turn is `{role, content}` or ShareGPT's `{from, value}`. The content is text or a list of parts. Tool calls
and results become text for the judge (`reasongrm_nemo.data.tool_calls`). An image or a sound is a
`RowProblem`. `reasoning_content` is ignored: an answer is what its reader sees.
"""

from __future__ import annotations

import re
from typing import Any

from reasongrm_nemo.data.problems import ROLES, RowProblem
from reasongrm_nemo.data.records import Message
from reasongrm_nemo.data.tool_calls import Calls, parsed

_ROLE_NAMES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "developer": "system",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
_CALL_ROLES = ("function_call", "tool_call")
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
_UNSEEN_PARTS = ("thinking", "reasoning", "redacted_thinking")
_SPEAKER = re.compile(r"(?:\A\s*|\r?\n\r?\n)(Human|Assistant):[ \t]?")


def turns_of(value: Any) -> list[Message]:
    """Converts a list of turns into messages.

    Raises:
        RowProblem: the value is not a list of turns, or a turn cannot be rendered as text.
    """
    if not isinstance(value, list):
        raise RowProblem("wrong_type", "the turns are not a list")
    calls = Calls()
    return [_turn(turn, calls) for turn in value]


def is_turn(value: Any) -> bool:
    """Whether a value has the fields of a turn."""
    return isinstance(value, dict) and ("role" in value or {"from", "value"} <= value.keys())


def transcript(text: str) -> list[Message] | None:
    """The turns of an HH-RLHF transcript, with blank lines before `Human:` and `Assistant:`; else None."""
    if "Human:" not in text:
        return None
    parts = _SPEAKER.split(text)
    if len(parts) < 2 or parts[0].strip() or parts[1] != "Human":
        return None
    names = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": names[speaker], "content": words.strip("\r\n")}
        for speaker, words in zip(parts[1::2], parts[2::2], strict=True)
    ]


def asking_transcript(text: str) -> list[Message] | None:
    """As `transcript`, for a prompt, which must end with `Assistant:`; that turn is removed."""
    turns = transcript(text) if text.rstrip().endswith("\nAssistant:") else None
    return turns[:-1] if turns and turns[-1]["role"] == "assistant" else None


def user_texts(value: Any) -> list[str]:
    """The texts of the user turns; unreadable ones are skipped."""
    if isinstance(value, str):
        turns = transcript(value)
        return [value] if turns is None else [t["content"] for t in turns if t["role"] == "user"]
    texts = []
    for turn in value if isinstance(value, list) else []:
        try:
            (message,) = turns_of([turn])
        except RowProblem:
            continue
        texts += [message["content"]] if message["role"] == "user" else []
    return texts


def _turn(turn: Any, calls: Calls) -> Message:
    if not isinstance(turn, dict):
        raise RowProblem("wrong_type", "a turn is not an object")
    spelled = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if not isinstance(spelled, str):
        raise RowProblem("wrong_type", "a turn has no role")
    spelled = spelled.lower()
    if spelled in _CALL_ROLES:
        return {"role": "assistant", "content": calls.made(content)}
    role = _ROLE_NAMES.get(spelled, spelled)
    if role not in ROLES:
        raise RowProblem("unknown_role", f"the role is {spelled[:60]!r}")
    made = _calls_of(turn, calls)
    if content is None and isinstance(turn.get("refusal"), str):
        content = turn["refusal"]
    if content is None and made:
        content = ""
    text = _content(content, calls)
    if role == "tool":
        return {"role": role, "content": calls.result(turn, text)}
    if role == "user" and isinstance(turn.get("name"), str) and turn["name"].strip():
        text = f"[{turn['name'].strip()}]\n{text}"
    return {"role": role, "content": "\n".join(part for part in (text, *made) if part)}


def _calls_of(turn: dict[str, Any], calls: Calls) -> list[str]:
    """The calls made by a turn, as text."""
    made = parsed(turn.get("tool_calls")) or []
    if not isinstance(made, list):
        raise RowProblem("tool_call", "the tool calls are not a list")
    if turn.get("function_call"):
        made = [*made, turn["function_call"]]
    return [calls.made(call) for call in made]


def _content(content: Any, calls: Calls) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RowProblem("wrong_type", "a turn's content is not text")
    return "\n".join(text for part in content if (text := _part(part, calls)) is not None)


def _part(part: Any, calls: Calls) -> str | None:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise RowProblem("wrong_type", "a part of a turn's content is not an object")
    kind = part.get("type") or "text"
    if kind in _UNSEEN_PARTS:
        return None
    if kind == "tool_use":
        return calls.made(part)
    if kind == "tool_result":
        return calls.result(part, _content(part.get("content") or "", calls))
    text = part.get("text", part.get("refusal")) if kind in _TEXT_PARTS else None
    if not isinstance(text, str):
        raise RowProblem("not_text", f"a part has the type {str(kind)[:60]!r}")
    return text

# SPDX-License-Identifier: Apache-2.0
"""Turns a plain row into a preference pair: the shared prompt and the two answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from itertools import takewhile
from typing import Any

from msgspec.structs import replace

from reasongrm_nemo.data.forms import SYSTEM_FIELDS, is_nothing
from reasongrm_nemo.data.problems import RowProblem
from reasongrm_nemo.data.records import Message, PreferencePair
from reasongrm_nemo.data.rows import BrokenRow
from reasongrm_nemo.data.sameness import same_key
from reasongrm_nemo.data.tool_calls import RESULT, tools_text
from reasongrm_nemo.data.turns import asking_transcript, is_turn, transcript, turns_of

MAX_CHARS = 1_000_000
"""Default limit on the total characters of a pair's texts."""
_MAX_NAME = 200
_MEDIA_FIELDS = ("image", "images", "video", "videos", "audio", "audios")


def row_as_object(row: Any) -> dict[str, Any]:
    """The row if it is an object; otherwise raises `RowProblem`."""
    if isinstance(row, BrokenRow):
        raise RowProblem("broken_line", row.problem)
    if not isinstance(row, dict):
        raise RowProblem("wrong_type", "the row is no object")
    return row


def pair_from_row(
    row: Any, default_source: str = "unknown", max_chars: int = MAX_CHARS, tolerate: Collection[str] = ()
) -> PreferencePair:
    """Turns one plain row, or one of the paper's source, into a pair; without an id, its content is hashed.

    Args:
        row: from `reasongrm_nemo.data.forms.plain_rows`.
        default_source: used if the row names no source.
        max_chars: limit on the total characters of the pair's texts.
        tolerate: problems to accept (`empty_answer`, `identical_answers`), as some benchmarks have them.

    Raises:
        RowProblem: the row is refused.
    """
    row = row_as_object(row)
    if "chosen" not in row or "rejected" not in row:
        raise RowProblem("unknown_form")
    sides = [_side(row[name]) for name in ("chosen", "rejected")]
    asked = prompt_turns(row.get("prompt"))
    prompt, chosen, rejected = _parted(asked, sides[0], sides[1])
    prompt = with_system(row, prompt)
    texts = (chosen, rejected, *(turn["content"] for turn in prompt))
    check_texts(texts, max_chars)
    if not any(turn["role"] == "user" and turn["content"].strip() for turn in prompt):
        raise RowProblem("empty_prompt")
    if prompt[-1]["role"] == "assistant":
        raise RowProblem("no_assistant_turn", "the prompt ends with an assistant turn")
    if "empty_answer" not in tolerate and not (chosen.strip() and rejected.strip()):
        raise RowProblem("empty_answer")
    if "identical_answers" not in tolerate and same_key(chosen) == same_key(rejected):
        raise RowProblem("identical_answers")
    return PreferencePair(
        id=name_of(row.get("id")) or content_id(prompt, chosen, rejected),
        source=name_of(row.get("source")) or name_of(row.get("subset")) or default_source,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
    )


def prompt_turns(asked: Any) -> list[Message] | None:
    """A prompt's turns: a list of turns, the turns of an HH-RLHF transcript, or a text as one user turn."""
    if asked is None:
        return None
    if isinstance(asked, str):
        return asking_transcript(asked) or [{"role": "user", "content": asked}]
    return turns_of([asked] if is_turn(asked) else asked)


def with_system(row: dict[str, Any], prompt: list[Message]) -> list[Message]:
    """Puts the row's system prompt and tools before the prompt; a row with media is refused."""
    row = {name: value for name, value in row.items() if not is_nothing(value)}
    for name in _MEDIA_FIELDS:
        if row.get(name):
            raise RowProblem("not_text", f"the row has {name}")
    given = [row[name] for name in SYSTEM_FIELDS if name in row]
    if not all(isinstance(text, str) for text in given):
        raise RowProblem("wrong_type", "the system prompt is not text")
    there = {same_key(turn["content"]) for turn in prompt if turn["role"] == "system"}
    parts = [text for text in given if text.strip() and same_key(text) not in there]
    if tools := tools_text(row.get("tools")):
        parts.append(tools)
    return [{"role": "system", "content": "\n\n".join(parts)}, *prompt] if parts else prompt


def check_texts(texts: Collection[str], max_chars: int) -> None:
    """Raises `RowProblem` if the texts are too long together, or not valid Unicode."""
    if sum(map(len, texts)) > max_chars:
        raise RowProblem("huge_text")
    try:
        for text in texts:
            text.encode("utf-8")
    except UnicodeEncodeError:
        raise RowProblem("bad_text") from None


def name_of(value: Any) -> str | None:
    """An id or source, if printable and not too long; otherwise None."""
    return value if isinstance(value, str) and value.isprintable() and 0 < len(value) <= _MAX_NAME else None


def without_nul(pair: PreferencePair) -> PreferencePair:
    """The pair with every NUL replaced by U+FFFD; the same object if there is none."""
    texts = (pair.chosen, pair.rejected, *(turn["content"] for turn in pair.prompt))
    if not any("\0" in text for text in texts):
        return pair
    prompt = [{"role": turn["role"], "content": no_nul(turn["content"])} for turn in pair.prompt]
    return replace(pair, prompt=prompt, chosen=no_nul(pair.chosen), rejected=no_nul(pair.rejected))


def no_nul(text: str) -> str:
    """The text with every NUL replaced by U+FFFD."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def content_id(prompt: Sequence[Message], *texts: str) -> str:
    """A hash of the content alone: 16 hex digits."""
    parts = [[turn["role"], turn["content"]] for turn in prompt]
    return hashlib.sha256(json.dumps([parts, *texts]).encode("ascii")).hexdigest()[:16]


def keyed(turns: Sequence[Message]) -> list[Message]:
    """The turns with their texts normalized by `same_key`."""
    return [{"role": turn["role"], "content": same_key(turn["content"])} for turn in turns]


def _alike(turns: tuple[Message, Message]) -> bool:
    one, two = turns
    return one == two or keyed([one]) == keyed([two])


def _side(value: Any) -> str | list[Message]:
    """One side of a pair: an answer's text, or turns."""
    if is_nothing(value):
        return ""
    if isinstance(value, str):
        return transcript(value) or value
    if is_turn(value):
        value = [value]
    if not isinstance(value, list):
        raise RowProblem("wrong_type", "an answer is neither text nor turns")
    return turns_of(value)


def _parted(
    asked: list[Message] | None, chosen: str | list[Message], rejected: str | list[Message]
) -> tuple[list[Message], str, str]:
    """The shared prompt and the two answers."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        if asked is None:
            raise RowProblem("wrong_type", "there is no prompt beside the answers")
        last = same_key(asked[-1]["content"]) if asked and asked[-1]["role"] == "assistant" else None
        held = last in (same_key(chosen), same_key(rejected))  # the turns may include one of the answers
        return asked[:-1] if held else asked, chosen, rejected
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise RowProblem("wrong_type", "one answer is a text and the other is turns")
    whole = [bool(side) and side[0]["role"] in ("user", "system") for side in (chosen, rejected)]
    if asked is not None and not any(whole):
        return _split([*asked, *chosen], [*asked, *rejected])
    prompt, better, worse = _split(chosen, rejected)
    return _agreed(asked, prompt), better, worse


def _agreed(asked: list[Message] | None, prompt: list[Message]) -> list[Message]:
    """The conversations' shared prompt, with a system turn that only the separate prompt has."""
    if asked is None or [turn["role"] for turn in asked] == ["user"]:  # may be any of the user turns
        return prompt
    if asked[-1]["role"] == "assistant":
        asked = asked[:-1]
    for extra in (0, 1) if asked and asked[0]["role"] == "system" else (0,):
        if keyed(asked[extra:]) == keyed(prompt)[: len(asked) - extra]:
            return [*asked[:extra], *prompt]
    raise RowProblem("other_prompt")


def _split(chosen: list[Message], rejected: list[Message]) -> tuple[list[Message], str, str]:
    """Splits two conversations into their shared beginning and the two answers after it."""
    for turns in (chosen, rejected):
        if not turns or turns[-1]["role"] != "assistant":
            raise RowProblem("no_assistant_turn")
    same = list(takewhile(_alike, zip(chosen, rejected, strict=False)))
    shared = len(same)
    if shared == len(chosen) == len(rejected):
        raise RowProblem("identical_answers")
    if not shared:
        raise RowProblem("no_shared_prompt")
    rests = chosen[shared:], rejected[shared:]
    if not all(rests) or any(turn["role"] in ("user", "system") for rest in rests for turn in rest):
        raise RowProblem("early_fork")
    # if the conversations differ from a tool result on, the call belongs to the answers
    while shared and chosen[shared - 1]["role"] != "user" and _continues(chosen, rejected, shared):
        shared -= 1
    if not shared:
        raise RowProblem("no_shared_prompt")
    return chosen[:shared], _answer(chosen[shared:]), _answer(rejected[shared:])


def _continues(chosen: list[Message], rejected: list[Message], at: int) -> bool:
    """Whether the turns from `at` on continue the assistant's answer."""
    before, after = chosen[at - 1]["role"], {turns[at]["role"] for turns in (chosen, rejected)}
    return before == "assistant" or (before == "tool" and after != {"assistant"})


def _answer(turns: list[Message]) -> str:
    """Joins assistant and tool turns into one answer."""
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n\n".join(_labelled(turn) for turn in turns)


def _labelled(turn: Message) -> str:
    bare = turn["role"] == "tool" and not turn["content"].startswith(RESULT)
    return f"{RESULT}]\n{turn['content']}" if bare else turn["content"]

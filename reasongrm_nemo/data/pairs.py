# SPDX-License-Identifier: Apache-2.0
"""A plain row as a preference pair: the shared prompt, and what each side answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

from reasongrm_nemo.data.forms import SYSTEM_FIELDS, is_nothing
from reasongrm_nemo.data.problems import RowProblem
from reasongrm_nemo.data.records import Message, PreferencePair
from reasongrm_nemo.data.rows import BrokenRow
from reasongrm_nemo.data.sameness import same_key
from reasongrm_nemo.data.tool_calls import RESULT, tools_text
from reasongrm_nemo.data.turns import asking_transcript, is_turn, transcript, turns_of

MAX_CHARS = 1_000_000
"""Characters that a pair's texts may have together, unless the caller says otherwise."""
_MAX_NAME = 200
_MEDIA_FIELDS = ("image", "images", "video", "videos", "audio", "audios")


def row_as_object(row: Any) -> dict[str, Any]:
    """The row as the object that it must be; raises `RowProblem` otherwise."""
    if isinstance(row, BrokenRow):
        raise RowProblem("broken_line", row.problem)
    if not isinstance(row, dict):
        raise RowProblem("wrong_type", "the row is no object")
    return row


def pair_from_row(
    row: Any, default_source: str = "unknown", max_chars: int = MAX_CHARS, tolerate: Collection[str] = ()
) -> PreferencePair:
    """One plain row, or one of the paper's source, as a pair; its id is the row's or the content's hash.

    Args:
        row: as `reasongrm_nemo.data.forms.plain_rows` lays it out.
        default_source: where the row names none.
        max_chars: of the pair's texts together.
        tolerate: reasons not to refuse for, of `empty_answer` and `identical_answers`: a benchmark's items
            count as they are.

    Raises:
        RowProblem: with the reason.
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
        raise RowProblem("no_assistant_turn", "the prompt ends with a turn of the assistant's")
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
    """A prompt's turns: those it holds, those of an HH-RLHF transcript, or the text as the user's."""
    if asked is None:
        return None
    if isinstance(asked, str):
        return asking_transcript(asked) or [{"role": "user", "content": asked}]
    return turns_of([asked] if is_turn(asked) else asked)


def with_system(row: dict[str, Any], prompt: list[Message]) -> list[Message]:
    """The prompt below what the row says of the system and of tools; a row with a picture is refused."""
    row = {name: value for name, value in row.items() if not is_nothing(value)}
    for name in _MEDIA_FIELDS:
        if row.get(name):
            raise RowProblem("not_text", f"the row has {name}")
    said = [row[name] for name in SYSTEM_FIELDS if name in row]
    if not all(isinstance(text, str) for text in said):
        raise RowProblem("wrong_type", "the system prompt is no text")
    there = {same_key(turn["content"]) for turn in prompt if turn["role"] == "system"}
    parts = [text for text in said if text.strip() and same_key(text) not in there]
    if tools := tools_text(row.get("tools")):
        parts.append(tools)
    return [{"role": "system", "content": "\n\n".join(parts)}, *prompt] if parts else prompt


def check_texts(texts: Collection[str], max_chars: int) -> None:
    """Raises `RowProblem` where texts are too long together, or are no Unicode."""
    if sum(map(len, texts)) > max_chars:
        raise RowProblem("huge_text")
    try:
        for text in texts:
            text.encode("utf-8")
    except UnicodeEncodeError:
        raise RowProblem("bad_text") from None


def name_of(value: Any) -> str | None:
    """An id or source that can stand in a log and in a file; anything else is as good as none."""
    return value if isinstance(value, str) and value.isprintable() and 0 < len(value) <= _MAX_NAME else None


def without_nul(pair: PreferencePair) -> PreferencePair:
    """The pair with U+FFFD for every NUL; itself where there is none."""
    texts = (pair.chosen, pair.rejected, *(turn["content"] for turn in pair.prompt))
    if not any("\0" in text for text in texts):
        return pair
    prompt = [{"role": turn["role"], "content": no_nul(turn["content"])} for turn in pair.prompt]
    return replace(pair, prompt=prompt, chosen=no_nul(pair.chosen), rejected=no_nul(pair.rejected))


def no_nul(text: str) -> str:
    """The text with U+FFFD for NUL."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def content_id(prompt: Sequence[Message], *texts: str) -> str:
    """16 hex digits that depend on the content alone."""
    parts = [[turn["role"], turn["content"]] for turn in prompt]
    return hashlib.sha256(json.dumps([parts, *texts]).encode("ascii")).hexdigest()[:16]


def keyed(turns: Sequence[Message]) -> list[Message]:
    """The turns with texts that are equal where they are the same (`same_key`)."""
    return [{"role": turn["role"], "content": same_key(turn["content"])} for turn in turns]


def _alike(turns: tuple[Message, Message]) -> bool:
    one, two = turns
    return one == two or keyed([one]) == keyed([two])


def _side(value: Any) -> str | list[Message]:
    """One side: the text of an answer, or turns."""
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
        held = last in (same_key(chosen), same_key(rejected))  # the turns may hold one of the answers too
        return asked[:-1] if held else asked, chosen, rejected
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise RowProblem("wrong_type", "one answer is a text and the other is turns")
    whole = [bool(side) and side[0]["role"] in ("user", "system") for side in (chosen, rejected)]
    if asked is not None and not any(whole):
        return _split([*asked, *chosen], [*asked, *rejected])
    prompt, better, worse = _split(chosen, rejected)
    return _agreed(asked, prompt), better, worse


def _agreed(asked: list[Message] | None, prompt: list[Message]) -> list[Message]:
    """The conversations' beginning, with the system turns that only the prompt beside it has."""
    if asked is None or [turn["role"] for turn in asked] == ["user"]:  # may be any of the questions
        return prompt
    if asked[-1]["role"] == "assistant":
        asked = asked[:-1]
    for extra in (0, 1) if asked and asked[0]["role"] == "system" else (0,):
        if keyed(asked[extra:]) == keyed(prompt)[: len(asked) - extra]:
            return [*asked[:extra], *prompt]
    raise RowProblem("other_prompt")


def _split(chosen: list[Message], rejected: list[Message]) -> tuple[list[Message], str, str]:
    """The shared beginning of whole conversations, and what each says after it."""
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
    # an answer is whole with the call whose result the conversations part at
    while shared and chosen[shared - 1]["role"] != "user" and _continues(chosen, rejected, shared):
        shared -= 1
    if not shared:
        raise RowProblem("no_shared_prompt")
    return chosen[:shared], _answer(chosen[shared:]), _answer(rejected[shared:])


def _continues(chosen: list[Message], rejected: list[Message], at: int) -> bool:
    """Whether the turns from `at` on go on with what the assistant had begun."""
    before, after = chosen[at - 1]["role"], {turns[at]["role"] for turns in (chosen, rejected)}
    return before == "assistant" or (before == "tool" and after != {"assistant"})


def _answer(turns: list[Message]) -> str:
    """Turns of the assistant and of tools as one answer."""
    if len(turns) == 1:
        return turns[0]["content"]
    return "\n\n".join(_labelled(turn) for turn in turns)


def _labelled(turn: Message) -> str:
    bare = turn["role"] == "tool" and not turn["content"].startswith(RESULT)
    return f"{RESULT}]\n{turn['content']}" if bare else turn["content"]

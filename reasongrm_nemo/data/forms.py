# SPDX-License-Identifier: Apache-2.0
"""Converts rows of published preference data into plain rows `{prompt, chosen, rejected, ...}`.

`FORMS` lists the known forms. In a plain row, `chosen` and `rejected` are texts, turns or lists of turns, and
the prompt a text or a list of turns; `reasongrm_nemo.data.pairs` splits them. A row of unknown form is
returned unchanged, for the caller to refuse.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from reasongrm_nemo.data.labels import LABEL_FIELDS, WINNER_FLAGS, Labelled, Numbers, first_is_better
from reasongrm_nemo.data.tool_calls import parsed
from reasongrm_nemo.data.turns import is_turn, user_texts

MAX_LISTED = 64
"""Most answers on one side; a row with a longer list counts as of unknown form."""

PROMPT_FIELDS = (
    "conversation_input", "prompt", "question", "instruction", "query", "conversations", "conversation",
    "messages", "context", "input", "problem", "history",
)  # fmt: skip
ANSWER_FIELDS = (
    ("chosen", "rejected"),
    ("chosen", "reject"),
    ("chosen_response", "rejected_response"),
    ("response_chosen", "response_rejected"),
    ("text_chosen", "text_rejected"),
    ("response_j", "response_k"),
)
"""The fields of the better and the worse answer."""
SYSTEM_FIELDS = ("system", "system_prompt", "system_message")
KEPT_FIELDS = (
    "id", "source", "subset", "tools", "image", "images", "video", "videos", "audio", "audios", *SYSTEM_FIELDS
)  # fmt: skip
"""Fields that a plain row keeps besides the prompt and the answers."""

_NOUN = r"(?:response|answer|output|completion|candidate|generation|reply|summary|conversation|human_ref)"
_MARKED = re.compile(
    rf"(?P<noun>(?:model[ _-])?{_NOUN})[ _-]?(?P<mark>[ab012])"
    rf"|(?:model|assistant)[ _-](?P<mark2>[ab12])[ _-]{_NOUN}",
    re.IGNORECASE,
)


NO_NUMBERS: Mapping[str, Numbers] = {}


class Form(NamedTuple):
    """A form's name and its defining fields."""

    name: str
    fields: tuple[str, ...]


FORMS = (
    Form("conversations with a shared beginning (Skywork, UltraFeedback)", ("chosen", "rejected")),
    Form("prompt and two answers (TRL, RewardBench, RM-Bench)", ("prompt", "chosen", "rejected")),
    Form("Alpaca", ("instruction", "chosen", "rejected")),
    Form("ShareGPT", ("conversations", "chosen", "rejected")),
    Form("two answers and a label", ("prompt", "response_a", "response_b", "winner")),
    Form("Chatbot Arena", ("conversation_a", "conversation_b", "winner")),
    Form("PandaLM", ("instruction", "response1", "response2", "annotator1")),
    Form("HelpSteer3", ("context", "response1", "response2", "overall_preference")),
    Form("RMB pairs", ("conversation_input", "chosen", "reject")),
    Form("RMB best of N", ("conversation_input", "bon_best", "loser_list")),
)


def plain_rows(row: Any, numbers: Mapping[str, Numbers] = NO_NUMBERS) -> list[Any]:
    """The pairs in a row of any form, one or more, unchecked.

    Args:
        row: as read from the file.
        numbers: the meaning of numeric labels in this file, by the answers' marks.

    Raises:
        RowProblem: a label prefers neither answer.
    """
    if not isinstance(row, dict):
        return [row]
    if "conversation_input" in row and "loser_list" in row:
        return _best_of_n(row)
    if "conversation_input" in row:
        return [_rmb(row, row.get("chosen"), row.get("reject"), row.get("pair_uid"))]
    asked = prompt_value(row)
    if (sides := answer_fields(row)) is not None:
        good, bad = row[sides[0]], row[sides[1]]
    elif (pair := labelled(row)) is not None:
        asked, good, bad = _rounds(asked, *(_parsed_turns(row[name]) for name in (pair.first, pair.second)))
        if not first_is_better(row, pair, numbers):
            good, bad = bad, good
    else:
        return [row]
    plain = {key: row[key] for key in KEPT_FIELDS if key in row} | {"prompt": asked}
    if _texts(good) or _texts(bad):  # several answers on a side; a single answer may come without a list
        goods, bads = ([side] if isinstance(side, str) else side for side in (good, bad))
        if _texts(goods) and _texts(bads):
            return [
                {**plain, "chosen": better, "rejected": worse, "id": _cell(row.get("id"), f"{i}{j}")}
                for i, better in enumerate(goods)
                for j, worse in enumerate(bads)
            ]
    return [{**plain, "chosen": good, "rejected": bad}]


def form_of(row: Any) -> str:
    """The fields read from a row, for display; empty if its form is unknown."""
    if not isinstance(row, dict):
        return ""
    if "conversation_input" in row:
        return FORMS[-1].name if "loser_list" in row else FORMS[-2].name
    if (sides := answer_fields(row)) is not None:
        answers = " and ".join(sides)
    elif (pair := labelled(row)) is not None:
        answers = pair.name
    else:
        return ""
    prompt = _prompt_field(row)
    return f"{prompt}, {answers}" if prompt else answers


def is_answer_field(name: str) -> bool:
    """Whether some form keeps an answer in this field."""
    return any(name in sides for sides in ANSWER_FIELDS) or is_marked(name)


def is_marked(name: str) -> bool:
    """Whether this is the field of one of two answers, such as `response_a`."""
    return _MARKED.fullmatch(name) is not None


def read_fields(row: dict[str, Any]) -> set[str]:
    """The fields of a row of known form that are read; the others are ignored."""
    if "conversation_input" in row:
        return {*row}
    pair = labelled(row)
    answers = answer_fields(row) or (() if pair is None else (pair.first, pair.second, pair.label))
    asked = _prompt_field(row)
    beside = {"instruction": {"input", "history"}}.get(asked or "", {"history"})
    votes = {name for name in row if str(name).startswith(("annotator", "winner_"))} if pair else set()
    return {
        *KEPT_FIELDS,
        asked or "",
        *beside,
        *(name or "" for name in answers),
        *votes,
        "model_a",
        "model_b",
    }


def answer_fields(row: dict[str, Any]) -> tuple[str, str] | None:
    """The fields of the better and the worse answer, if the names say which is which."""
    return next((sides for sides in ANSWER_FIELDS if sides[0] in row and sides[1] in row), None)


def labelled(row: dict[str, Any]) -> Labelled | None:
    """Two answers and the label that chooses between them: `response_a`, `response_b`, `winner` and the like.

    None if there are none, or if the field names say which answer is better.
    """
    return None if answer_fields(row) is not None else _labelled(tuple(row))


@lru_cache(maxsize=256)
def _labelled(fields: tuple[Any, ...]) -> Labelled | None:
    nouns: dict[str, dict[str, str]] = {}
    for field in fields:
        if isinstance(field, str) and (match := _MARKED.fullmatch(field)):
            mark = (match["mark"] or match["mark2"]).lower()
            nouns.setdefault((match["noun"] or "").lower(), {})[mark] = field
    label = _label_field(fields)
    if label is None and not ({*WINNER_FLAGS} <= {*fields} or "annotator1" in fields):
        return None
    for by_mark in nouns.values():
        marks = "".join(sorted(by_mark))
        if marks in ("ab", "12", "01"):
            return Labelled(by_mark[marks[0]], by_mark[marks[1]], marks, label)
    return None


def prompt_value(row: dict[str, Any]) -> Any:
    """The prompt of a row, unprocessed: a text or turns; None if there is none."""
    name = _prompt_field(row)
    if name is None:
        return None
    asked = row[name]
    given = row.get("input")
    if name == "instruction" and isinstance(asked, str) and isinstance(given, str) and given.strip():
        asked = f"{asked}\n\n{given}"
    earlier = row.get("history")
    if isinstance(asked, str) and name != "history" and isinstance(earlier, list) and earlier:
        return [*_exchanges(earlier), {"role": "user", "content": asked}]
    return asked


def prompt_of(row: Any) -> list[str]:
    """The texts of the user turns in a row of any form; empty if there are none."""
    if not isinstance(row, dict):
        return []
    asked = prompt_value(row)
    if asked is None:
        asked = next((row[name] for name in ("chosen", "conversation_a") if name in row), None)
        if isinstance(asked, str) and user_texts(asked) == [asked]:  # an answer, not a transcript
            return []
    return user_texts(_parsed_turns(asked))


def _prompt_field(row: dict[str, Any]) -> str | None:
    there = [name for name in PROMPT_FIELDS if name in row]
    return next((name for name in there if not is_nothing(row[name])), there[0] if there else None)


def is_nothing(value: Any) -> bool:
    """Whether a cell is empty; pandas writes empty cells as NaN."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _label_field(fields: tuple[Any, ...]) -> str | None:
    lower = {field.lower(): field for field in fields if isinstance(field, str)}
    # `chosen: "A"` is a label if there is no `rejected`
    names = LABEL_FIELDS if "rejected" in lower else (*LABEL_FIELDS, "chosen")
    return next((lower[name] for name in names if name in lower), None)


def _rounds(asked: Any, first: Any, second: Any) -> tuple[Any, Any, Any]:
    """Prompt and answers; as whole conversations if all three are lists of equally many texts (LMSYS)."""
    questions, *answers = (_parsed_texts(texts) for texts in (asked, first, second))
    if not questions or any(not texts or len(texts) != len(questions) for texts in answers):
        return asked, first, second
    better, worse = ([[*pair] for pair in zip(questions, texts or [], strict=True)] for texts in answers)
    return None, _exchanges(better), _exchanges(worse)


def _exchanges(pairs: list[Any]) -> list[Any]:
    """Turns from `[question, answer]` pairs; other values are kept, for the caller to refuse."""
    turns: list[Any] = []
    for pair in pairs:
        whole = isinstance(pair, (list, tuple)) and len(pair) == 2
        turns += (
            [{"role": role, "content": text} for role, text in zip(("user", "assistant"), pair, strict=True)]
            if whole
            else [pair]
        )
    return turns


def _parsed_turns(value: Any) -> Any:
    """A list of turns parsed from JSON text; any other value unchanged."""
    turns = _parsed_list(value)
    return turns if turns and all(map(is_turn, turns)) else value


def _parsed_texts(value: Any) -> list[str] | None:
    texts = _parsed_list(value)
    return (
        [text or "" for text in texts]
        if texts and all(t is None or isinstance(t, str) for t in texts)
        else None
    )


def _parsed_list(value: Any) -> list[Any] | None:
    """A list, or one parsed from JSON text; None for other values."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parsed(value)
    return value if isinstance(value, list) else None


def _best_of_n(row: dict[str, Any]) -> list[Any]:
    losers = row["loser_list"]
    if not isinstance(losers, list) or not 0 < len(losers) <= MAX_LISTED:
        return [row]
    name = row.get("bon_uid")
    return [_rmb(row, row.get("bon_best"), loser, _cell(name, str(i))) for i, loser in enumerate(losers)]


def _rmb(row: dict[str, Any], chosen: Any, rejected: Any, name: Any) -> dict[str, Any]:
    return {
        "id": name,
        "source": row.get("category_path"),
        "prompt": row["conversation_input"],
        "chosen": _answer(chosen),
        "rejected": _answer(rejected),
    }


def _answer(value: Any) -> Any:
    return value.get("answer") if isinstance(value, dict) else None


def _cell(name: Any, cell: str) -> str | None:
    return f"{name}-{cell}" if type(name) in (str, int) else None


def _texts(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= MAX_LISTED
        and all(isinstance(text, str) for text in value)
    )

# SPDX-License-Identifier: Apache-2.0
"""Reads one judgement in another project's result file, under any of the field names that scripts use.

As in a log of this project, scores are compared and a text is parsed by the chosen policy. If a file only
tells whether a judgement was right, that is used: 1 is right, 0 wrong, 0.5 no verdict or a tie.
"""

from __future__ import annotations

from typing import Any

from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.data.tasks import prompt_key
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge.parse import parse_verdict

SCORES = (
    ("scores_chosen", "scores_rejected"),
    ("score_chosen", "score_rejected"),
    ("chosen_reward", "reject_reward"),
)
RESULTS = ("results", "result", "is_correct")
TEXTS = ("answers", "output")
SWAPPED = "Is_Chosen_Answer_Shuffled_toPositionB"
FIELDS = frozenset({*RESULTS, *TEXTS, SWAPPED, *(name for pair in SCORES for name in pair)})

Row = dict[str, Any]


def verdict(where: str, row: Row, place: tuple[str, str, str, str | None], fields: Row) -> Verdict:
    """The log's row: with scores, or a text and its order, or only whether the judgement is right.

    `place` is benchmark, subset, item and cell; `fields` are from `conversation_fields`.
    """
    data: Row = dict(zip(("benchmark", "subset", "item_id", "cell"), place, strict=True)) | fields
    data["sample"] = 0  # makes `read_log` refuse a file given twice
    scores, result = _scores(row, where), _result(row, where)
    if scores is not None:
        if result is not None and result != float(scores[0] > scores[1]):
            raise UserError(
                f"{where}: the result is {result:g}, but the scores are {scores[0]} and {scores[1]}"
            )
        return Verdict.from_dict(data | {"chosen_score": scores[0], "rejected_score": scores[1]}, where)
    if result is None:
        raise UserError(
            f"{where}: has neither two scores nor a result; one of {', '.join(RESULTS)} is needed"
        )
    data |= {"correct": result == 1, "verdict": None, "order": None, "tie": False}
    data["parse_status"] = "no_verdict" if result == 0.5 else "ok"
    text = next((row[name] for name in TEXTS if isinstance(row.get(name), str)), None)
    swapped = row.get(SWAPPED)
    if text is not None and isinstance(swapped, bool):
        parsed = parse_verdict(text, "rm_r1")
        data |= {"text": text, "order": "rejected_first" if swapped else "chosen_first"}
        data |= {"tie": result == 0.5, "verdict": parsed.verdict, "parse_status": parsed.status}
    return Verdict.from_dict(data, where)


def _scores(row: Row, where: str) -> tuple[float, float] | None:
    for names in SCORES:
        numbers = [_number(row.get(name), where, name) for name in names]
        if numbers[0] is not None and numbers[1] is not None:
            return numbers[0], numbers[1]
        if numbers[0] is not None or numbers[1] is not None:
            raise UserError(f"{where}: has one of '{names[0]}' and '{names[1]}'; give both")
    return None


def _number(value: Any, where: str, name: str) -> float | None:
    """A score, which some models' code wraps in a list."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or (type(value) in (int, float)):
        return value  # type: ignore[no-any-return]
    raise UserError(f"{where}: '{name}' must be a number, got {str(value)[:60]}")


def _result(row: Row, where: str) -> float | None:
    for name in RESULTS:
        value = row.get(name)
        while isinstance(value, list) and len(value) == 1:
            value = value[0]
        if value is not None:
            if value not in (0, 0.5, 1):
                raise UserError(f"{where}: '{name}' must be 0, 0.5 or 1, got {str(value)[:60]}")
            return float(value)
    return None


def conversation_fields(row: Row) -> Row:
    """A log's optional fields on the conversation and the answers, if the row has them as messages."""
    chosen: Any = row.get("text_chosen")
    rejected: Any = row.get("text_rejected")
    if not (_messages(chosen) and _messages(rejected)):
        return {}
    prompt = [{"role": turn["role"], "content": turn["content"]} for turn in chosen[:-1]]
    return {
        "turns": sum(turn["role"] == "user" for turn in prompt),
        "chosen_chars": len(chosen[-1]["content"]),
        "rejected_chars": len(rejected[-1]["content"]),
        "prompt_id": prompt_key(prompt),
    }


def _messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 1
        and all(isinstance(turn, dict) and _strings(turn.get("role"), turn.get("content")) for turn in value)
    )


def _strings(*values: Any) -> bool:
    return all(isinstance(value, str) for value in values)

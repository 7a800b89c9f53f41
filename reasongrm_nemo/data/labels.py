# SPDX-License-Identifier: Apache-2.0
"""Finds which of two answers a row's label prefers.

Words are clear (`A`, `model_a`, `[[B]]`, `A>B`, the field's name, the winning model's name). Numbers are
not: 1 may mean the first answer or the second. Their meaning follows from the answers' field names and from
all numbers in the file; a file that allows two readings is refused.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reasongrm_nemo.data.problems import RowProblem

Numbers = Literal["from 0", "from 1"]
"""Labels count the answers from 0, or from 1, where 0 is a tie."""

LABEL_FIELDS = (
    "winner", "label", "labels", "preference", "overall_preference", "preference_strength", "preferred",
    "better", "better_response", "better_response_id", "choice", "verdict", "vote",
)  # fmt: skip
SIGNED_FIELDS = ("overall_preference", "preference_strength")
"""HelpSteer's labels: below 0 the first answer is better, above 0 the second."""
WINNER_FLAGS = ("winner_model_a", "winner_model_b")

_TIES = {
    "tie", "ties", "tied", "draw", "both", "both_bad", "bothbad", "tie (bothbad)", "tie (both bad)",
    "neither", "none", "equal", "same", "no preference", "a=b", "b=a", "1=2", "2=1", "c",
}  # fmt: skip
_NOUN = r"(?:the\s+)?(?:model|response|answer|assistant|output|completion|option|candidate|conversation|side)"
_WINS = (
    r"(?:\s+(?:is\s+)?(?:(?:slightly|much|clearly|significantly)\s+)?(?:better|preferred)|\s+wins?|\s+won)"
)
_NAMED = re.compile(rf"(?:{_NOUN}[\s_-]*)?([ab12]){_WINS}?", re.IGNORECASE)
_COMPARED = re.compile(r"([ab])\s*(>+|<+)\s*([ab])", re.IGNORECASE)
_FIRST = {"first", "left", "former"}
_SECOND = {"second", "right", "latter"}


@dataclass(frozen=True)
class Labelled:
    """The fields of a row's two answers, the marks that distinguish these fields, and the label's field."""

    first: str
    second: str
    marks: str
    label: str | None

    @property
    def name(self) -> str:
        """For display: `response_a, response_b and winner`."""
        return f"{self.first}, {self.second}" + (f" and {self.label}" if self.label else "")

    def number(self, row: dict[str, Any]) -> int | None:
        """The row's label if it is a number whose meaning depends on the file."""
        if self.label is None or self.label.lower() in SIGNED_FIELDS or self.is_shp:
            return None
        return number_of(row.get(self.label))

    @property
    def is_shp(self) -> bool:
        """Whether this is SHP, whose label is 1 if A is preferred and 0 if B is."""
        return self.first.lower().startswith("human_ref")


def counted(row: dict[str, Any], pair: Labelled | None, numbers: Mapping[str, Numbers]) -> str:
    """How a numeric label is read, for display: ` (0 for response_a, 1 for response_b)`."""
    if pair is None or pair.number(row) is None or pair.marks not in numbers:
        return ""
    start = 0 if numbers[pair.marks] == "from 0" else 1
    return f" ({start} for {pair.first}, {start + 1} for {pair.second})"


def first_is_better(row: dict[str, Any], pair: Labelled, numbers: Mapping[str, Numbers]) -> bool:
    """Whether a row prefers its first answer.

    Args:
        row: the row.
        pair: the row's answers and label.
        numbers: the meaning of numeric labels in this file, by the answers' marks.

    Raises:
        RowProblem: neither answer is better, or the label is unclear.
    """
    if pair.label is None:
        return _by_votes(row) if "annotator1" in row else _by_flags(row)
    value = row.get(pair.label)
    if pair.label.lower() in SIGNED_FIELDS:
        return _by_sign(value)
    number = number_of(value)
    if number is not None:
        if pair.is_shp:
            return _one_of(number, 1, 0)
        if pair.marks not in numbers:
            raise RowProblem("no_label", f"{pair.label} is {str(value)[:60]!r}")
        return _by_number(number, numbers[pair.marks])
    return _by_words(row, pair, value)


def number_of(value: Any) -> int | None:
    """A whole number, also from text or a float; None for anything else, including true and false."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,9}(?:\.0*)?\s*", value):
        return int(float(value))
    if type(value) is float and math.isfinite(value) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def meaning(marks: str, seen: Collection[int]) -> Numbers | None:
    """The meaning of the numeric labels in a file; None if ambiguous.

    Args:
        marks: how the answers' fields differ: `ab`, `12` or `01`.
        seen: all numbers among the labels.
    """
    from_zero, from_one = {*seen} <= {0, 1}, {*seen} <= {0, 1, 2}
    if marks == "01":
        return "from 0" if from_zero else None
    if marks == "12":  # without a 2, a 0 may be a tie or the first answer
        return "from 1" if from_one and (2 in seen or {*seen} == {1}) else None
    if from_zero and 0 in seen:
        return "from 0"
    return "from 1" if {*seen} <= {1, 2} and 2 in seen else None


def _one_of(number: int, first: int, second: int) -> bool:
    if number not in (first, second):
        raise RowProblem("no_label", f"the label is {number}")
    return number == first


def _by_number(number: int, numbers: Numbers) -> bool:
    if numbers == "from 1" and number == 0:
        raise RowProblem("tie")
    return _one_of(number, 0, 1) if numbers == "from 0" else _one_of(number, 1, 2)


def _by_sign(value: Any) -> bool:
    try:
        strength = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        strength = math.nan
    if math.isnan(strength):
        raise RowProblem("no_label", f"the preference is {str(value)[:60]!r}")
    if strength == 0:
        raise RowProblem("tie")
    return strength < 0


def _by_votes(row: dict[str, Any]) -> bool:
    """PandaLM's labels: the majority of annotators, who vote 1, 2 or, for a tie, 0."""
    names = [name for name in row if re.fullmatch(r"annotator\d+", name)]
    votes = Counter(number_of(row[name]) for name in names)
    if not {*votes} <= {0, 1, 2}:
        raise RowProblem("no_label", "an annotator's vote is not 0, 1 or 2")
    (choice, most), *others = votes.most_common()
    if choice == 0 or (others and others[0][1] == most):
        raise RowProblem("tie")
    return choice == 1


def _by_flags(row: dict[str, Any]) -> bool:
    flags = [number_of(int(v) if isinstance(v, bool) else v) for v in map(row.get, WINNER_FLAGS)]
    if flags == [1, 0]:
        return True
    if flags == [0, 1]:
        return False
    raise RowProblem("tie" if flags == [0, 0] else "no_label")


def _by_words(row: dict[str, Any], pair: Labelled, value: Any) -> bool:
    text = value.strip() if isinstance(value, str) else ""
    word = text.casefold().strip("[].")
    models = [row.get("model_a"), row.get("model_b")]
    if models[0] != models[1] and text and text in models:
        return text == models[0]
    for names, first in (
        ({pair.first.casefold(), *_FIRST}, True),
        ({pair.second.casefold(), *_SECOND}, False),
    ):
        if word in names:
            return first
    match = _NAMED.fullmatch(word.strip("()"))
    if match and not (pair.marks == "01" and match[1] in "12"):  # "model 1" of 0 and 1 is ambiguous
        return match[1] in "a1"
    if (match := _COMPARED.fullmatch(word)) and match[1] != match[3]:
        return (match[1] == "a") == match[2].startswith(">")
    if word in _TIES:
        raise RowProblem("tie")
    raise RowProblem("no_label", f"{pair.label} is {str(value)[:60]!r}")

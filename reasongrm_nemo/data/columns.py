# SPDX-License-Identifier: Apache-2.0
"""`prepare.columns`: maps the fields of rows that are in no published form."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reasongrm_nemo.data.forms import PROMPT_FIELDS, SYSTEM_FIELDS, is_answer_field, is_nothing, labelled
from reasongrm_nemo.data.labels import LABEL_FIELDS, Labelled, first_is_better, number_of
from reasongrm_nemo.data.problems import RowProblem
from reasongrm_nemo.errors import UserError

QUESTION_FIELDS = ("question", "problem", "prompt", "messages")
REFERENCE_FIELDS = ("reference", "answer", "solution")
FIRST, SECOND, LABEL = "response_a", "response_b", "winner"

_AS = {
    "prompt": "prompt", "system": "system", "chosen": "chosen", "rejected": "rejected",
    "a": FIRST, "b": SECOND, "label": LABEL, "reference": "reference", "id": "id", "source": "source",
}  # fmt: skip
"""The field that each key of `prepare.columns` becomes."""
_STAND_FOR = {
    "prompt": {*PROMPT_FIELDS, *QUESTION_FIELDS},
    "system": {*SYSTEM_FIELDS},
    "label": {*LABEL_FIELDS},
    "reference": {*REFERENCE_FIELDS},
    "source": {"source", "subset"},
}
"""Fields that are ignored once their key is mapped."""
_OPTIONAL = ("system", "id", "source")
"""Keys whose field a row may lack."""


@dataclass
class Columns:
    """The mapped fields by key, and the label values that prefer each answer; empty, rows stay unchanged.

    A field may be nested: `info.post`, `answers.0.text`. A prompt may be joined from several fields:
    `context + question`, with a blank line between.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    a_wins: str | None = None
    b_wins: str | None = None
    unmet: set[str] = field(default_factory=set)
    """Mapped fields not seen in any row yet."""

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> Columns:
        """From the recipe's mapping; keys without a value are ignored."""
        named = {key: str(value) for key, value in (given or {}).items() if value is not None}
        wins = named.pop("a_wins", None), named.pop("b_wins", None)
        return cls(named, *wins, {*named.values()})

    def apply(self, row: Any) -> Any:
        """The row with the mapped fields renamed to those of the forms.

        Raises:
            RowProblem: the row lacks a required mapped field, or its label prefers neither answer.
        """
        if not isinstance(row, dict):
            return row
        if self.fields:
            row = self._renamed(row)
        if self.a_wins is None and "label" not in self.fields:
            return row
        answers = labelled(row)
        if answers is None or answers.label is None:
            return row
        label = self._label(row, answers)
        return {name: value for name, value in row.items() if name != answers.label} | {LABEL: label}

    def check_met(self, files: str) -> None:
        """Raises `UserError` if a mapped field was in no row."""
        if self.unmet:
            name = min(self.unmet)
            key = next(key for key, value in self.fields.items() if value == name)
            raise UserError(f"{files}: prepare.columns.{key} is {name!r}, but no row has that field")

    def _renamed(self, row: dict[str, Any]) -> dict[str, Any]:
        values = {}
        for key, name in self.fields.items():
            try:
                values[_AS[key]] = _value(row, name)
            except (KeyError, IndexError, ValueError):
                if key not in _OPTIONAL:
                    near = difflib.get_close_matches(name, row, 1)
                    hint = f"; is it {near[0]!r}?" if near else ""
                    raise RowProblem("wrong_type", f"there is no field {name!r}{hint}") from None
            else:
                self.unmet.discard(name)
        replaced = {name for key in self.fields for name in _STAND_FOR.get(key, ())}
        answers = bool(self.fields.keys() & {"chosen", "a"})
        kept = {n: v for n, v in row.items() if n not in replaced and not (answers and is_answer_field(n))}
        return kept | values

    def _label(self, row: dict[str, Any], answers: Labelled) -> Any:
        """The label: A or B if a_wins or b_wins names its value, otherwise unchanged.

        Raises:
            RowProblem: the label does not say which answer is better; the detail uses the user's field name.
        """
        assert answers.label is not None
        value = row[answers.label]
        for answer, wins in (("A", self.a_wins), ("B", self.b_wins)):
            if wins is not None and _plain(value) == _plain(wins):
                return answer
        if number_of(value) is not None and self.a_wins is None:
            return value  # the meaning of numbers depends on the whole file
        try:
            if number_of(value) is None:
                first_is_better(row, answers, {})
                return value
        except RowProblem as problem:
            if problem.reason == "tie":
                return value
        name = self.fields.get("label", answers.label)
        wins = f"{self.a_wins!r} (prepare.columns.a_wins) nor {self.b_wins!r} (b_wins)"
        hint = "; name the values that prefer each answer in prepare.columns: a_wins and b_wins"
        why = hint if self.a_wins is None else f", neither {wins}"
        raise RowProblem("no_label", f"{name} is {value!r:.60}{why}")


def _plain(value: Any) -> str:
    number = number_of(value)
    return str(value).strip().casefold() if number is None else str(number)


def _value(row: dict[str, Any], name: str) -> Any:
    if name in row or " + " not in name:
        return _get(row, name)
    parts = [_get(row, part.strip()) for part in name.split(" + ")]
    return "\n\n".join(str(part) for part in parts if not is_nothing(part))


def _get(row: Any, path: str) -> Any:
    """A field, possibly nested.

    Raises:
        KeyError, IndexError, ValueError: the field does not exist.
    """
    if isinstance(row, dict) and path in row:
        return row[path]
    head, _, rest = path.partition(".")
    if isinstance(row, list):
        inner = row[int(head)]
    elif isinstance(row, dict):
        inner = row[head]
    else:
        raise KeyError(path)
    return _get(inner, rest) if rest else inner

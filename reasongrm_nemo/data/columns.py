# SPDX-License-Identifier: Apache-2.0
"""`prepare.columns`: which fields of a user's rows hold what, where they are of no published form."""

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
"""What a key of `prepare.columns` becomes in the row."""
_STAND_FOR = {
    "prompt": {*PROMPT_FIELDS, *QUESTION_FIELDS},
    "system": {*SYSTEM_FIELDS},
    "label": {*LABEL_FIELDS},
    "reference": {*REFERENCE_FIELDS},
    "source": {"source", "subset"},
}
_OPTIONAL = ("system", "id", "source")
"""The fields that a mapped one stands in for, so that none of them is read in its place."""


@dataclass
class Columns:
    """The fields by what they hold, and the label's values that prefer an answer; empty, it changes nothing.

    A field may lie within others: `info.post`, `answers.0.text`.  A prompt may be put together from several:
    `context + question`, with a blank line between.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    a_wins: str | None = None
    b_wins: str | None = None
    unmet: set[str] = field(default_factory=set)
    """Mapped fields that no row has had yet."""

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> Columns:
        """From the recipe's mapping; a key without a value counts for none."""
        named = {key: str(value) for key, value in (given or {}).items() if value is not None}
        wins = named.pop("a_wins", None), named.pop("b_wins", None)
        return cls(named, *wins, {*named.values()})

    def apply(self, row: Any) -> Any:
        """The row with the mapped fields under the names that the forms know.

        Raises:
            RowProblem: the row lacks a mapped field that it needs, or its label prefers neither answer.
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
        said = self._said(row, answers)
        return {name: value for name, value in row.items() if name != answers.label} | {LABEL: said}

    def check_met(self, files: str) -> None:
        """Raises `UserError` where a mapped field was in no row."""
        if self.unmet:
            name = min(self.unmet)
            key = next(key for key, value in self.fields.items() if value == name)
            raise UserError(f"{files}: prepare.columns.{key} is {name!r}, and no row has that field")

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

    def _said(self, row: dict[str, Any], answers: Labelled) -> Any:
        """The label as A or B where a_wins and b_wins name its values, else as it stands.

        Raises:
            RowProblem: neither they nor words say which answer is better; with the user's name for the label.
        """
        assert answers.label is not None
        value = row[answers.label]
        for answer, wins in (("A", self.a_wins), ("B", self.b_wins)):
            if wins is not None and _plain(value) == _plain(wins):
                return answer
        if number_of(value) is not None and self.a_wins is None:
            return value  # what numbers mean is the whole file's to say
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
    """A field, or what lies within one.

    Raises:
        KeyError, IndexError, ValueError: there is none.
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

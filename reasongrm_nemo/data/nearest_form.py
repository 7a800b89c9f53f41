# SPDX-License-Identifier: Apache-2.0
"""Describes a row of unknown form: its fields, and the nearest known form."""

from __future__ import annotations

import difflib
from typing import Any

from reasongrm_nemo.data.forms import FORMS, PROMPT_FIELDS, is_answer_field, is_marked
from reasongrm_nemo.data.problems import DROP_REASONS, RowProblem
from reasongrm_nemo.data.rows import BrokenRow

_SHOWN = 12
_STANDS_FOR = 0.9
"""Likeness of two fields that hold the same thing under different names."""
_MISSPELLED = 0.7
_NEAR = 0.25
_KINDS = {str: "text", bool: "true or false", int: "number", float: "number", list: "list", dict: "object"}


def refusal(where: str, row: Any, problem: RowProblem) -> str:
    """Why the row at a place was left out, in one or two clauses."""
    why = DROP_REASONS[problem.reason] + (f" ({problem.detail})" if problem.detail else "")
    if isinstance(row, BrokenRow) or not isinstance(row, dict):
        return f"{where} is left out: {why}"
    sentence = f"{where} has {'the ' if row else ''}{fields_of(row)} and is left out: {why}"
    if problem.reason in ("unknown_form", "wrong_type") and (hint := _layout(row)):
        return f"{sentence}; {hint}"
    return sentence if problem.reason != "unknown_form" else f"{sentence}; {_nearest(row)}"


def fields_of(row: dict[str, Any]) -> str:
    """`fields prompt (text), chosen (list)`."""
    shown = [f"{str(name)[:40]} ({_kind(value)})" for name, value in [*row.items()][:_SHOWN]]
    more = f" and {len(row) - _SHOWN} more" if len(row) > _SHOWN else ""
    return f"fields {', '.join(shown)}{more}" if row else "no fields"


def _layout(row: dict[str, Any]) -> str:
    """A hint for a file that does not hold one object per row; empty if the row looks like one."""
    values = [*row.values()]
    by_index = all(isinstance(value, dict) and value.keys() == values[0].keys() for value in values)
    by_list = all(isinstance(value, list) and len(value) == len(values[0]) > 1 for value in values)
    if len(values) > 1 and (by_index or by_list):
        return 'the file seems to hold columns; write one object per row (pandas: to_json(orient="records"))'
    for name, value in row.items():
        field = str(name)[:40]
        if isinstance(value, list) and value and isinstance(value[0], dict) and not _is_turn(value[0]):
            return f"the rows seem to be in the field {field}; write only that list to the file"
        if isinstance(value, dict) and any(is_answer_field(str(inner)) for inner in value):
            return f"the row seems to be in the field {field}; write only that object as the row"
    return ""


def _is_turn(item: dict[str, Any]) -> bool:
    return not item.keys().isdisjoint(("role", "from"))


def _nearest(row: dict[str, Any]) -> str:
    nearness = [sum(_best(name, row) for name in form.fields) / len(form.fields) for form in FORMS]
    form = FORMS[nearness.index(max(nearness))]
    if max(nearness) < _NEAR:
        return "no form in docs/data.md is similar; map the fields in prepare.columns"
    lacking = [f"{name}{_hint(name, row)}" for name in form.fields if _best(name, row) < _STANDS_FOR]
    lacks = f"; the row lacks {', '.join(lacking)}" if lacking else ""
    return (
        f"the nearest form is {form.name}, with the fields {', '.join(form.fields)}{lacks}; rename them, "
        "or map the fields in prepare.columns"
    )


def _best(name: str, row: dict[str, Any]) -> float:
    """Likeness of the row's most similar field to a form's field: 1 if the row has this field."""
    return max((_likeness(name, str(field)) for field in row), default=0.0)


def _likeness(name: str, field: str) -> float:
    if name == field:
        return 1.0
    if {name, field} <= {*PROMPT_FIELDS} or (is_marked(name) and is_marked(field)):
        return _STANDS_FOR
    ratio = difflib.SequenceMatcher(None, name.lower(), field[:80].lower()).ratio()
    return ratio / 2 if ratio > _MISSPELLED else 0.0


def _hint(name: str, row: dict[str, Any]) -> str:
    near = difflib.get_close_matches(name, [str(field) for field in row], 1, _MISSPELLED)
    return f" (is it {near[0]}?)" if near else ""


def _kind(value: Any) -> str:
    return "null" if value is None else _KINDS.get(type(value), type(value).__name__)

# SPDX-License-Identifier: Apache-2.0
"""The records that stages hand to one another.

Each is a frozen dataclass with `to_dict()` and a strict `from_dict()`: a missing field, an unknown one or a
value of the wrong type is a `UserError` that names the place and the field.  Records go to disk as JSON
Lines (`reasongrm_nemo.data.jsonl`).
"""

from __future__ import annotations

import dataclasses
import math
import types
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from reasongrm_nemo.errors import UserError

Message = dict[str, str]
"""One turn: exactly the keys `role` and `content`."""

Side = Literal["A", "B"]
"""The answer shown first (A) or second (B)."""

Order = Literal["chosen_first", "rejected_first"]
"""How a pair is shown; `chosen_first` goes with the label A."""

R = TypeVar("R", bound="Record")


class Record:
    """What all records share: conversion to and from plain dictionaries."""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON; optional fields without a value are left out."""
        out = {}
        for spec in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, spec.name)
            if value is None and spec.default is None:
                continue
            out[spec.name] = value
        return out

    @classmethod
    def from_dict(cls: type[R], data: Any, where: str = "record") -> R:
        """Build the record from a dictionary, checking every field.

        Args:
            data: what the JSON parser gave.
            where: "file:line", for the message.

        Raises:
            UserError: naming `where`, the record and the field.
        """
        what = f"{where}: {cls.__name__}"
        if not isinstance(data, dict):
            raise UserError(f"{what} must be a JSON object, got {_show(data)}")
        specs = _specs(cls)
        for name in data:
            if name not in specs:
                raise UserError(f"{what} has no field '{name}'; its fields are {', '.join(specs)}")
        values = {}
        for name, (expected, optional) in specs.items():
            if name in data:
                exact = type(data[name]) is expected and expected is not float  # most fields, and quick
                problem = None if exact else _problem(data[name], expected)
                if problem:
                    raise UserError(f"{what} field '{name}' {problem}")
                values[name] = float(data[name]) if expected is float else data[name]
            elif not optional:
                raise UserError(f"{what} lacks the field '{name}'")
        record = cls(**values)
        problem = record._inconsistency()
        if problem:
            raise UserError(f"{what} {problem}")
        return record

    def _inconsistency(self) -> str | None:
        """What is wrong between fields, or None."""
        return None


_SPECS: dict[type[Record], dict[str, tuple[Any, bool]]] = {}


def _specs(cls: type[Record]) -> dict[str, tuple[Any, bool]]:
    """Type and optionality of each field, worked out once a class."""
    if cls not in _SPECS:
        hints = get_type_hints(cls)
        _SPECS[cls] = {
            spec.name: (hints[spec.name], spec.default is not dataclasses.MISSING)
            for spec in dataclasses.fields(cls)  # type: ignore[arg-type]
        }
    return _SPECS[cls]


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _problem(value: Any, expected: Any) -> str | None:
    """Why `value` is not of the annotated type `expected`, or None when it is."""
    origin = get_origin(expected)
    if origin in (Union, types.UnionType):
        problems = [_problem(value, option) for option in get_args(expected)]
        return None if None in problems else problems[0]
    if expected is type(None):
        return None if value is None else f"must be null, got {_show(value)}"
    if origin is Literal:
        options = get_args(expected)
        if isinstance(value, str) and value in options:
            return None
        return f"must be {' or '.join(repr(option) for option in options)}, got {_show(value)}"
    if origin is list:
        if not isinstance(value, list):
            return f"must be a list, got {_show(value)}"
        (inner,) = get_args(expected)
        if inner is int:  # token ids: the long lists, so one quick pass
            return None if all(type(item) is int for item in value) else "must hold integers only"
        for index, item in enumerate(value):
            problem = _problem(item, inner)
            if problem:
                return f"item {index} {problem}"
        return None
    if origin is dict:
        whole = isinstance(value, dict) and set(value) == {"role", "content"}
        if whole and all(isinstance(part, str) for part in value.values()):
            return None
        return f"must be a message of the texts 'role' and 'content', got {_show(value)}"
    if expected is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return None if number and math.isfinite(value) else f"must be a finite number, got {_show(value)}"
    if type(value) is expected:
        return None
    noun = {str: "text", int: "an integer", bool: "true or false"}[expected]
    return f"must be {noun}, got {_show(value)}"


@dataclass(frozen=True)
class PreferencePair(Record):
    """A conversation and two answers to it, one of them preferred."""

    id: str
    source: str
    prompt: list[Message]
    chosen: str
    rejected: str

    def _inconsistency(self) -> str | None:
        return None if self.prompt else "field 'prompt' must not be empty"


@dataclass(frozen=True)
class JudgeTask(Record):
    """What the judge is shown, and which answer is the preferred one."""

    id: str
    pair_id: str
    source: str
    messages: list[Message]
    label: Side
    order: Order

    def _inconsistency(self) -> str | None:
        if not self.messages:
            return "field 'messages' must not be empty"
        if (self.label == "A") != (self.order == "chosen_first"):
            return f"has the label '{self.label}' but the order '{self.order}'"
        return None


@dataclass(frozen=True)
class ReasoningPath(Record):
    """One sampled response to a task, with the sums R* needs.

    `reasoning_prob_sum` and `answer_prob_sum` add the raw probabilities (temperature 1, full vocabulary)
    of the reasoning's and the answer's tokens under the model that wrote them; the end-of-turn token is in
    neither.  `text` is the response without the end-of-turn token.
    """

    task_id: str
    sample: int
    text: str
    reasoning_tokens: int
    answer_tokens: int
    reasoning_prob_sum: float
    answer_prob_sum: float
    verdict: Side | None
    parse_status: str
    correct: bool
    finish_reason: str
    model: str
    token_ids: list[int] | None = None

    def _inconsistency(self) -> str | None:
        for name in ("sample", "reasoning_tokens", "answer_tokens"):
            if getattr(self, name) < 0:
                return f"field '{name}' must not be negative, got {getattr(self, name)}"
        if self.correct and self.verdict is None:
            return "is marked correct without a verdict"
        return None


@dataclass(frozen=True)
class SftExample(Record):
    """A task's prompt with the selected path as the assistant's turn."""

    task_id: str
    messages: list[Message]
    r_star: float
    self_consistency: float
    validity: float
    strategy: str

    def _inconsistency(self) -> str | None:
        if len(self.messages) < 2 or self.messages[-1]["role"] != "assistant":
            return "field 'messages' must end with the assistant's turn"
        return None


@dataclass(frozen=True)
class HardTask(JudgeTask):
    """A task the model does not always get right (section 3.4).

    `answers` holds the N verdicts by sample (null: no verdict), `accuracy` the share that is right,
    `rationale` a right reasoning path when one is known.
    """

    answers: list[Side | None]
    accuracy: float
    rationale: str | None = None

    def _inconsistency(self) -> str | None:
        return super()._inconsistency() or (None if self.answers else "field 'answers' must not be empty")


@dataclass(frozen=True)
class Verdict(Record):
    """One judgement in an evaluation.

    `cell` tells apart the several pairs of one item: RM-Bench's style cell, a best-of-N group's loser.
    """

    benchmark: str
    subset: str
    item_id: str
    cell: str | None
    order: Order
    verdict: Side | None
    correct: bool
    tie: bool
    parse_status: str
    tokens: int
    text: str

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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

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
        if not isinstance(data, dict):
            raise UserError(f"{where}: {cls.__name__} must be a JSON object, got {_show(data)}")
        shape = tuple(data), tuple(map(type, data.values()))
        known = _GOOD_SHAPES.setdefault(cls, {}).get(shape)
        if (
            known is not None
            and all(data[name] in options for name, options in known.choices)
            and all(math.isfinite(data[name]) for name in known.floats)
        ):
            return cls._checked(data, where)
        specs = _specs(cls)
        if not data.keys() <= specs.keys():
            name = next(name for name in data if name not in specs)
            raise UserError(
                f"{where}: {cls.__name__} has no field '{name}'; its fields are {', '.join(specs)}"
            )
        for name, spec in specs.items():
            if not spec.optional and name not in data:
                raise UserError(f"{where}: {cls.__name__} lacks the field '{name}'")
        floats: dict[str, float] = {}
        quick = True
        for name, value in data.items():
            spec = specs[name]
            if type(value) in spec.plain and (not spec.options or value in spec.options):
                continue
            if spec.is_float and type(value) is float and math.isfinite(value):
                continue
            quick = False
            problem = _problem(value, spec.expected)
            if problem:
                raise UserError(f"{where}: {cls.__name__} field '{name}' {problem}")
            if spec.is_float:
                floats[name] = float(value)
        if quick and len(_GOOD_SHAPES[cls]) < _MAX_SHAPES:
            _GOOD_SHAPES[cls][shape] = _Shape(
                [(name, specs[name].options) for name in data if specs[name].options],
                [name for name, value in data.items() if type(value) is float],
            )
        return cls._checked(data, where, floats)

    @classmethod
    def _checked(
        cls: type[R], data: dict[str, Any], where: str, floats: Mapping[str, float] | None = None
    ) -> R:
        """The record of good fields, once they agree with each other."""
        # A frozen dataclass's constructor sets field by field, which is a third of reading a long log.
        record = object.__new__(cls)
        record.__dict__.update(data)
        if floats:
            record.__dict__.update(floats)
        problem = record._inconsistency()
        if problem:
            raise UserError(f"{where}: {cls.__name__} {problem}")
        return record

    def _inconsistency(self) -> str | None:
        """What is wrong between fields, or None."""
        return None


class _Spec(NamedTuple):
    """What a field takes.

    `plain` and `options` are a quick check, which a log of hundreds of thousands of rows needs: a value of
    one of these exact types, and one of the options if there are any, is good.  Only `_problem` refuses.
    """

    expected: Any
    optional: bool
    plain: frozenset[type]
    options: frozenset[str | None]
    is_float: bool


class _Shape(NamedTuple):
    """What is left to check of a record whose fields have the right types: options, and floats be finite."""

    choices: list[tuple[str, frozenset[str | None]]]
    floats: list[str]


_GOOD_SHAPES: dict[type[Record], dict[tuple[Any, ...], _Shape]] = {}
"""By field names and types of records that were found good by these; a long log has few shapes."""
_MAX_SHAPES = 256
_SPECS: dict[type[Record], dict[str, _Spec]] = {}


def _specs(cls: type[Record]) -> dict[str, _Spec]:
    """What each field takes, worked out once a class."""
    if cls not in _SPECS:
        hints = get_type_hints(cls)
        _SPECS[cls] = {
            spec.name: _spec(hints[spec.name], spec.default is not dataclasses.MISSING)
            for spec in dataclasses.fields(cls)  # type: ignore[arg-type]
        }
    return _SPECS[cls]


def _spec(expected: Any, optional: bool) -> _Spec:
    union = get_origin(expected) in (Union, types.UnionType)
    parts = get_args(expected) if union else (expected,)
    options: set[str | None] = set()
    for part in parts:
        if get_origin(part) is Literal:
            options.update(get_args(part))
            options.update({None} if type(None) in parts else ())
    plain = {str if get_origin(part) is Literal else part for part in parts} & {str, int, bool, type(None)}
    return _Spec(expected, optional, frozenset(plain), frozenset(options), float in parts)


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
        try:
            finite = isinstance(value, (int, float)) and type(value) is not bool and math.isfinite(value)
        except OverflowError:  # a whole number past what a float holds
            finite = False
        return None if finite else f"must be a finite number, got {_show(value)}"
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
class QuestionAnswer(Record):
    """A conversation that ends with a question, and the reference answer to it."""

    id: str
    source: str
    prompt: list[Message]
    reference: str

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
class AnswerTask(Record):
    """A question with an open answer, and the reference that an answer must be equivalent to."""

    id: str
    source: str
    messages: list[Message]
    reference: str

    def _inconsistency(self) -> str | None:
        if not self.messages:
            return "field 'messages' must not be empty"
        return None if self.reference.strip() else "field 'reference' must hold text"


@dataclass(frozen=True)
class ReasoningPath(Record):
    """One sampled response to a task, with the sums R* needs.

    `reasoning_prob_sum` and `answer_prob_sum` add the raw probabilities (temperature 1, full vocabulary)
    of the reasoning's and the answer's tokens under the model that wrote them, or under `scorer` where there
    is one; the end-of-turn token is in neither.  `text` is the response without the end-of-turn token.
    A path of a `JudgeTask` has a verdict, one of an `AnswerTask` an `answer`, if any could be read.
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
    answer: str | None = None
    scorer: str | None = None

    def _inconsistency(self) -> str | None:
        for name in ("sample", "reasoning_tokens", "answer_tokens"):
            if getattr(self, name) < 0:
                return f"field '{name}' must not be negative, got {getattr(self, name)}"
        if self.verdict is not None and self.answer is not None:
            return "has both a verdict and an open answer"
        if self.correct and self.verdict is None and self.answer is None:
            return "is marked correct without a verdict"
        return None


@dataclass(frozen=True)
class SampledPath(ReasoningPath):
    """A path in the file of a stage that is still sampling, with its token probabilities if they are kept.

    `probs` is `token_probs.pack` of all its tokens.
    """

    probs: str | None = None


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
    What may be left out: `sample` (of several judgements in one order), `turns` of the user, the characters
    of both answers, the prompt's tokens, and `prompt_id`, alike where the conversation is.
    A scalar reward model's row has the two scores instead of a verdict; of such a row only the benchmark, the
    subset, the item, the cell and the scores need be in the file, the rest follows.
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
    chosen_score: float | None = None
    rejected_score: float | None = None
    sample: int | None = None
    turns: int | None = None
    chosen_chars: int | None = None
    rejected_chars: int | None = None
    prompt_tokens: int | None = None
    prompt_id: str | None = None

    @classmethod
    def from_dict(cls, data: Any, where: str = "record") -> Verdict:
        """As `Record.from_dict`, filling in what two scores imply."""
        if isinstance(data, dict) and "chosen_score" in data and "rejected_score" in data:
            chosen, rejected = data["chosen_score"], data["rejected_score"]
            numbers = isinstance(chosen, (int, float)) and isinstance(rejected, (int, float))
            implied = {
                "order": "chosen_first",
                "verdict": None,
                "correct": numbers and chosen > rejected,
                "tie": numbers and chosen == rejected,
                "parse_status": "score",
                "tokens": 0,
                "text": "",
            }
            data = implied | data
        return super().from_dict(data, where)

    def _inconsistency(self) -> str | None:
        if self.chosen_score is None and self.rejected_score is None:
            return None
        if self.chosen_score is None or self.rejected_score is None:
            return "has one of 'chosen_score' and 'rejected_score'; give both"
        if self.verdict is not None:
            return "has scores and a verdict; give one of them"
        if self.correct != (self.chosen_score > self.rejected_score):
            return (
                f"has the scores {self.chosen_score} and {self.rejected_score} but 'correct' {self.correct}"
            )
        if self.tie != (self.chosen_score == self.rejected_score):
            return f"has the scores {self.chosen_score} and {self.rejected_score} but 'tie' {self.tie}"
        return None

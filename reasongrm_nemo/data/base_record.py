# SPDX-License-Identifier: Apache-2.0
"""The base class of records: conversion to plain values, and strict conversion back.

A missing or unknown field or a value of the wrong type is a `UserError` that names the place and the field.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from reasongrm_nemo.errors import UserError

R = TypeVar("R", bound="Record")


class Record:
    """Base class with conversion to and from plain dictionaries."""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON; optional fields without a value are omitted."""
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
            data: parsed JSON.
            where: "file:line", for the message.

        Raises:
            UserError: a field is wrong; the message names `where`, the record and the field.
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
        """Build the record from valid fields, and check their consistency."""
        # A frozen dataclass's constructor sets each field separately: a third of the time of reading a log.
        record = object.__new__(cls)
        record.__dict__.update(data)
        if floats:
            record.__dict__.update(floats)
        problem = record._inconsistency()
        if problem:
            raise UserError(f"{where}: {cls.__name__} {problem}")
        return record

    def _inconsistency(self) -> str | None:
        """Why the fields contradict each other, or None."""
        return None


class _Spec(NamedTuple):
    """The values that a field allows.

    `plain` and `options` are a quick check for logs of hundreds of thousands of rows: a value of one of these
    exact types, and among the options if there are any, is valid. Only `_problem` refuses a value.
    """

    expected: Any
    optional: bool
    plain: frozenset[type]
    options: frozenset[str | None]
    is_float: bool


class _Shape(NamedTuple):
    """Remaining checks of a record whose fields have the right types: options, and that floats are finite."""

    choices: list[tuple[str, frozenset[str | None]]]
    floats: list[str]


_GOOD_SHAPES: dict[type[Record], dict[tuple[Any, ...], _Shape]] = {}
"""Names and types of the fields of valid records, per class; a long log has few such shapes."""
_MAX_SHAPES = 256
_SPECS: dict[type[Record], dict[str, _Spec]] = {}


def _specs(cls: type[Record]) -> dict[str, _Spec]:
    """The values that each field allows, computed once per class."""
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
    """Why `value` does not have the annotated type `expected`, or None if it does."""
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
        if inner is int:  # token ids: long lists, checked in one pass
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
        except OverflowError:  # an integer too large for a float
            finite = False
        return None if finite else f"must be a finite number, got {_show(value)}"
    if type(value) is expected:
        return None
    noun = {str: "text", int: "an integer", bool: "true or false"}[expected]
    return f"must be {noun}, got {_show(value)}"

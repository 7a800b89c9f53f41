# SPDX-License-Identifier: Apache-2.0
"""The base class of records: a msgspec struct whose errors name line, field and allowed values."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from reasongrm_nemo.errors import UserError

R = TypeVar("R", bound="Record")

_NOUNS = {
    "str": "text",
    "int": "an integer",
    "bool": "true or false",
    "float": "a finite number",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_MISSING = re.compile(r"Object missing required field `(.*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_EXPECTED = re.compile(r"Expected `([a-z| ]+)`")
_PLACE = re.compile(r" - at (?:`key` in )?`\$\.(\w+)((?:\[(?:\d+|\.\.\.)\])*)`$")


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Converts to plain dictionaries, and strictly from them."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; optional fields that are None are left out."""
        optional = _optional(type(self))
        values = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return {name: value for name, value in values if value is not None or name not in optional}

    @classmethod
    def from_dict(cls: type[R], data: Any, where: str = "record") -> R:
        """Build the record from a dictionary, checking every field.

        Args:
            data: the parsed JSON.
            where: "file:line", for errors.

        Raises:
            UserError: naming `where`, the record and the field.
        """
        if not isinstance(data, dict):
            raise UserError(f"{where}: {cls.__name__} must be a JSON object, got {_show(data)}")
        try:
            record = msgspec.convert(data, cls)
        except msgspec.ValidationError as error:
            raise UserError(f"{where}: {cls.__name__} {_sentence(str(error), cls, data)}") from None
        for name in _floats(cls):  # Python's JSON reads NaN and Infinity, and msgspec lets them pass
            value = getattr(record, name)
            if value is not None and not math.isfinite(value):
                raise UserError(
                    f"{where}: {cls.__name__} field '{name}' must be a finite number, got {value}"
                )
        return record.consistent(where)

    @classmethod
    def from_json(cls: type[R], line: bytes, where: str = "record") -> R | None:
        """Parse one line of JSON; None if it needs the slower `from_dict`, or is invalid and needs its error.

        Raises:
            UserError: the fields contradict each other; names `where`.
        """
        try:
            record = _decoder(cls).decode(line)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        checked: R = record.consistent(where)
        return checked

    def consistent(self: R, where: str) -> R:
        """The record itself.

        Raises:
            UserError: its fields contradict each other.
        """
        problem = self._inconsistency()
        if problem:
            raise UserError(f"{where}: {type(self).__name__} {problem}")
        return self

    def _inconsistency(self) -> str | None:
        """How fields contradict each other, or None; subclasses override it."""
        return None


@cache
def _decoder(cls: type[Record]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(cls)


@cache
def _optional(cls: type[Record]) -> frozenset[str]:
    return frozenset(spec.name for spec in msgspec.structs.fields(cls) if spec.default is None)


@cache
def _floats(cls: type[Record]) -> tuple[str, ...]:
    hints = get_type_hints(cls)
    return tuple(name for name in cls.__struct_fields__ if float in (hints[name], *get_args(hints[name])))


def _sentence(error: str, cls: type[Record], data: dict[Any, Any]) -> str:
    """Rewords an error of msgspec and adds the refused value."""
    if missing := _MISSING.match(error):
        return f"lacks the field '{missing[1]}'"
    if unknown := _UNKNOWN.match(error):
        return f"has no field '{unknown[1]}'; its fields are {', '.join(cls.__struct_fields__)}"
    place = _PLACE.search(error)
    if place is None:
        return f"cannot be read ({error})"
    name, below = place.groups()
    return f"field '{name}' {_requirement(error, cls, name, below)}, got {_show(_value(data[name], below))}"


def _requirement(error: str, cls: type[Record], name: str, below: str) -> str:
    """Describes the allowed values at a place in a field."""
    kinds = _kinds(msgspec.inspect.type_info(get_type_hints(cls, include_extras=True)[name]))
    item = re.match(r"\[(\d+)\]", below)
    lists = [kind for kind in kinds if isinstance(kind, msgspec.inspect.ListType)]
    if item is None or not lists:
        return f"must be {_noun(error, kinds)}"
    kinds = _kinds(lists[0].item_type)
    if isinstance(kinds[0], msgspec.inspect.DictType):
        return f"item {item[1]} must be a message of the texts 'role' and 'content'"
    return f"item {item[1]} must be {_noun(error, kinds)}"


def _kinds(kind: msgspec.inspect.Type) -> tuple[msgspec.inspect.Type, ...]:
    return kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)


def _noun(error: str, kinds: tuple[msgspec.inspect.Type, ...]) -> str:
    for kind in kinds:
        if isinstance(kind, msgspec.inspect.LiteralType):
            return " or ".join(repr(value) for value in sorted(kind.values, key=str))
    expected = _EXPECTED.match(error)
    return _NOUNS[expected[1].split(" | ")[0]] if expected else "a finite number"


def _value(value: Any, below: str) -> Any:
    for index in re.findall(r"\[(\d+)\]", below):
        value = value[int(index)]
    return value


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

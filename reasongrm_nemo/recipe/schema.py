# SPDX-License-Identifier: Apache-2.0
"""Merges layers of YAML into one recipe, and checks its keys and types against the bases."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.recipe.checks import near
from reasongrm_nemo.recipe.keys import may_be_null
from reasongrm_nemo.recipe.yaml_files import AS_WRITTEN, Source, misread, read_as

MISSING = "???"


def schema_of(sources: Iterable[Source]) -> dict[str, Any]:
    """The bases among the sources, merged: every known key with its default."""
    return layers_of(source for source in sources if source.is_base)


def layers_of(sources: Iterable[Source]) -> dict[str, Any]:
    """The sources merged into one mapping; later ones win."""
    return functools.reduce(put_over, (source.data for source in sources), {})


def put_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merges two mappings key by key; `above` wins, except for a value that is still required (`???`)."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, dict):
            inner = merged.get(key)
            merged[key] = put_over(inner if isinstance(inner, dict) else {}, value)
        elif value != MISSING or key not in merged:
            merged[key] = value
    return merged


def leaves(data: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Every dotted key and its value, mappings included."""
    for key, value in data.items():
        yield f"{prefix}{key}", value
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")


def is_known(schema: Any, parts: list[str]) -> bool:
    """Whether a schema has the key with these parts; an empty mapping allows any key below it."""
    for part in parts:
        if not isinstance(schema, dict):
            return False
        if not schema:
            return True
        if part not in schema:
            return False
        schema = schema[part]
    return True


def check_keys(source: Source, data: dict[str, Any], schema: dict[str, Any], prefix: str) -> None:
    """Refuses a key that the schema lacks, and a mapping in place of a value or the reverse."""
    for key, value in data.items():
        dotted = f"{prefix}{key}"
        if key not in schema:
            known = [name for name, _ in leaves(schema, prefix)]
            hint = near(dotted, known) or near(str(key), schema)
            raise UserError(f'{source.where(dotted)}: unknown key "{dotted}"{hint}')
        below = schema[key]
        if isinstance(value, dict) and isinstance(below, dict) and below:
            check_keys(source, value, below, dotted + ".")
        elif isinstance(value, dict) != isinstance(below, dict):
            wanted = "a mapping" if isinstance(below, dict) else "a single value"
            raise UserError(f"{source.where(dotted)}: {dotted} must be {wanted}, not {_show(value)}")


def _is_text(value: str) -> bool:
    """Whether a text can be a file name: no NUL, and no lone surrogate other than an undecodable byte."""
    try:
        return b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list"}


def _show(value: Any) -> str:
    return "null" if value is None else "a mapping" if isinstance(value, dict) else repr(value)


def typed(value: Any, base: Any, key: str, origin: dict[str, str], recipe: str) -> Any:
    """`value` with the base's type (a whole number becomes a float if the base has one), or a UserError."""
    place = origin.get(key, recipe)
    if isinstance(base, dict):
        if not isinstance(value, dict):
            raise UserError(f"{place}: {key} must be a mapping, not {_show(value)}")
        if not base:  # any names are allowed: null removes an inherited one
            value = {name: item for name, item in value.items() if item is not None}
        below = {name: (base[name] if base else None) for name in value}
        prefix = f"{key}." if key else ""
        return {name: typed(value[name], below[name], f"{prefix}{name}", origin, recipe) for name in value}
    if isinstance(value, str) and value == MISSING:
        raise UserError(f"{recipe}: {key} is required; give it in the recipe or as {key}=VALUE")
    if value is None and base == MISSING:
        raise UserError(f"{place}: {key} is null, but required; give it in the recipe or as {key}=VALUE")
    if isinstance(value, str) and not _is_text(value):
        raise UserError(f"{place}: {key} is {value!a}, which contains a NUL or half a character; correct it")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{place}: {key} must be a finite number, not {value}")
    if isinstance(value, dict) and key.startswith("evaluate.models."):
        return value  # checked by checks.check_models
    if base is None and may_be_null(key):
        value = read_as(int, value)
    if base is None or base == MISSING:
        if isinstance(value, (dict, list)):
            shown = "a list" if key.startswith(f"{AS_WRITTEN}.") else _show(value)  # it may be a secret
            raise UserError(f"{place}: {key} must be a single value, not {shown}")
        return value
    if value is None and may_be_null(key):
        return None
    kind = type(base)
    value = read_as(kind, value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{place}: {key} must be {_KINDS[kind]}, not {_show(value)}{misread(value)}")
    if kind is list and base:
        return [
            _item(item, base[0], f"{key}[{i}]", origin | {f"{key}[{i}]": place}, recipe)
            for i, item in enumerate(value)
        ]
    return value


def _item(value: Any, pattern: Any, key: str, origin: dict[str, str], recipe: str) -> Any:
    if isinstance(pattern, dict) and isinstance(value, dict):
        for name in value:
            if name not in pattern:
                raise UserError(f'{origin[key]}: unknown key "{name}" in {key}{near(name, pattern)}')
        for name in pattern:
            if name not in value and pattern[name] is not None:
                raise UserError(f"{origin[key]}: {key} lacks {name}")
        value = {name: value.get(name) for name in pattern}
    return typed(value, pattern, key, origin, recipe)

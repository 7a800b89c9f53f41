# SPDX-License-Identifier: Apache-2.0
"""Checks parsed JSON or YAML against a schema; errors are one sentence with the file and the key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.refusals import shown

NUMBER = (int, float)
"""A finite number: Python's JSON parser also reads NaN and Infinity."""
FIGURE = (int, float, type(None))
"""A measured number: NaN if a run diverged, null if nothing was measured."""
TEXT_OR_NULL = (str, type(None))
_KINDS = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    dict: "an object",
    list: "a list",
    type(None): "null",
}


def shaped(data: Any, shape: Any, where: str, key: str = "") -> Any:
    """Returns ``data`` after checking its shape.

    Args:
        data: parsed JSON or YAML.
        shape: a type or several; ``[shape]`` for a list; ``{"name": shape, "name?": shape}`` for an object,
            in which other names are ignored; ``{...: shape}`` for an object with any names.
        where: the file, for the message.
        key: the dotted key of ``data`` in the file.

    Raises:
        UserError: the shape is wrong; the message names the file and the key.
    """
    if isinstance(shape, dict):
        _check_kind(data, (dict,), where, key)
        for name, below in shape.items():
            if name is ...:
                for name_in_data in data:
                    shaped(data[name_in_data], below, where, _dotted(key, name_in_data))
                continue
            plain = name.removesuffix("?")
            if plain in data:
                shaped(data[plain], below, where, _dotted(key, plain))
            elif plain == name:
                raise UserError(f"{where}: {_dotted(key, name)} is missing; restore the file, or remove it")
    elif isinstance(shape, list):
        _check_kind(data, (list,), where, key)
        for number, item in enumerate(data):
            shaped(item, shape[0], where, f"{key}[{number}]")
    elif shape is not object:
        _check_kind(data, shape if isinstance(shape, tuple) else (shape,), where, key)
    return data


def _dotted(key: str, name: object) -> str:
    return shown(f"{key}.{name}" if key else str(name))


def _check_kind(data: Any, kinds: tuple[type, ...], where: str, key: str) -> None:
    finite = kinds != NUMBER or not isinstance(data, float) or math.isfinite(data)
    if isinstance(data, kinds) and finite and (not isinstance(data, bool) or bool in kinds):
        return
    due = " or ".join(dict.fromkeys(_KINDS[kind] for kind in kinds))
    due = {NUMBER: "a finite number", FIGURE: "a number or null"}.get(kinds, due)
    what = f"{key} must be" if key else "the file must hold"
    raise UserError(f"{where}: {what} {due}, not {_kind_of(data)}; restore the file, or remove it")


def _kind_of(data: Any) -> str:
    if isinstance(data, (dict, list)) or data is None:
        return _KINDS[type(data)]
    return shown(repr(data))


def object_at(data: Any, *names: str) -> Mapping[str, Any]:
    """The object at a path of names; empty if there is none."""
    for name in names:
        data = data.get(name) if isinstance(data, dict) else None
    return data if isinstance(data, dict) else {}

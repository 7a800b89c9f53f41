# SPDX-License-Identifier: Apache-2.0
"""Helpers for the errors of checks."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

Refuse = Callable[[str, str], NoReturn]  # called with the dotted key and what is wrong


def near(name: str, known: Iterable[str]) -> str:
    """' (did you mean "x"?)' for the nearest known name, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f' (did you mean "{match[0]}"?)' if match else ""


def origin_of(key: str, origin: Mapping[str, str], recipe: str) -> str:
    """Where a key was set: its "file:line", else that of the nearest enclosing mapping or list.

    Args:
        key: dotted, items of lists in brackets, such as `evaluate.settings[0].top_p`.
        origin: dotted key -> "file:line", as `recipe.load.load_with_origins` gives it.
        recipe: the recipe's path, for a key that no file sets.
    """
    while key and key not in origin:
        key = re.sub(r"(\[\d+\]|(^|\.)[^.\[]+)$", "", key)
    return origin.get(key, recipe)

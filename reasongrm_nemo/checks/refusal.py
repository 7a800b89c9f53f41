# SPDX-License-Identifier: Apache-2.0
"""How a check says no."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import NoReturn

Refuse = Callable[[str, str], NoReturn]  # the dotted key, and what is wrong with it


def near(name: str, known: Iterable[str]) -> str:
    """' (did you mean "x"?)' for the nearest known name, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f' (did you mean "{match[0]}"?)' if match else ""

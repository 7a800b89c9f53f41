# SPDX-License-Identifier: Apache-2.0
"""Compares open answers as mathematics with math-verify, an optional dependency."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge.same_text import normalised

_SECONDS = 5


def load_math_verify() -> Callable[[str, str], bool]:
    """Load the check (answer, reference): the same normalised text, or equal according to math-verify.

    Raises:
        UserError: the package is not installed.
    """
    try:
        library = import_module("math_verify")
    except ImportError as error:
        raise UserError(
            f"math_verify, the check of open answers, needs the package math-verify ({error}); install "
            "reasongrm-nemo[math], or use numeric"
        ) from None

    def equivalent(answer: str, reference: str) -> bool:
        if normalised(answer) == normalised(reference):
            return True
        # math-verify limits its time with a signal, which only the main thread can receive
        limit = _SECONDS if threading.current_thread() is threading.main_thread() else None
        given, wanted = (
            library.parse(f"\\boxed{{{text}}}", parsing_timeout=limit) for text in (answer, reference)
        )
        return bool(library.verify(wanted, given, timeout_seconds=limit))

    return equivalent

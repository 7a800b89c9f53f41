# SPDX-License-Identifier: Apache-2.0
"""Open answers as mathematics: the package math-verify, an optional dependency."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge.same_text import normalised

_SECONDS = 5


def load_math_verify() -> Callable[[str, str], bool]:
    """The check (answer, reference): the same text once normalised, or equal by math-verify.

    Raises:
        UserError: the package is not installed.
    """
    try:
        library = import_module("math_verify")
    except ImportError as error:
        raise UserError(
            f"the check of open answers math_verify needs the package math-verify ({error}): install "
            "reasongrm-nemo[math], or take numeric"
        ) from None

    def equivalent(answer: str, reference: str) -> bool:
        if normalised(answer) == normalised(reference):
            return True
        # its time limit is a signal, which the main thread alone can be given
        limit = _SECONDS if threading.current_thread() is threading.main_thread() else None
        said, wanted = (
            library.parse(f"\\boxed{{{text}}}", parsing_timeout=limit) for text in (answer, reference)
        )
        return bool(library.verify(wanted, said, timeout_seconds=limit))

    return equivalent

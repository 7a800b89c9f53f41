# SPDX-License-Identifier: Apache-2.0
r"""Open answers: extracts the final answer from a response and compares it with a reference.

Not in the paper, which only judges pairs and names this as a limitation.  The answer is taken from the text
after the last `</think>`: the last `\boxed{...}`; else the rest of the line after the last "final answer",
"the answer is" or `####`; else the whole text if it is a single line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge.functions import load_function
from reasongrm_nemo.judge.parse import after_reasoning, unreadable
from reasongrm_nemo.judge.same_text import normalised
from reasongrm_nemo.judge.symbolic import load_math_verify
from reasongrm_nemo.judge.think import THINK_CLOSE

Equivalence = Callable[[str, str], bool]
"""Returns whether an answer (first argument) is equivalent to the reference."""

RELATIVE = 1e-6
ABSOLUTE = 1e-9
"""Tolerances for equal numbers; the larger of the two applies."""

_MAX_CHARS = 1000
_TRIES = 16  # number of boxes to try from the end; bounds the time for texts with many boxes
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_FINAL = re.compile(r"(?:\bfinal answer\b|\bthe answer is\b)(?:\s+is)?[ \t*]*[:=]?|####", re.IGNORECASE)
# do not match the power of a whole fraction: written as a/b^n, it would apply to the denominator
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}(?!\s*\^)")
_POWER = re.compile(r"(?:\\times|\\cdot|×|\*)\s*10\s*\^\s*\{?\s*([+-]?\d{1,4})\s*\}?$")
_RAISED = re.compile(r"([+-]?)(\d{1,400}(?:\.\d{0,400})?)\s*\^\s*(?:([+-]?\d{1,4})|\{\s*([+-]?\d{1,4})\s*\})")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NUMBER = re.compile(r"[+-]?(?:\d{1,400}(?:\.\d{0,400})?|\.\d{1,400})(?:[eE][+-]?\d{1,4})?")


@dataclass(frozen=True)
class OpenAnswer:
    """A response's final answer, or None, and the parse status.

    `status` is `ok`, `no_answer` (there is no recognizable answer), or the reason why the response was not
    parsed: `no_think_close` for `strict_last`, `unfinished` or `cut_off` for `last`.
    """

    answer: str | None
    status: str


def read_answer(
    text: str, policy: str = "strict_last", opened: bool = False, finished: bool = True
) -> OpenAnswer:
    """Extract the final answer of a response; arguments as for `judge.parse_verdict`.

    Policies that search the whole text for verdicts parse answers as `last` does.
    """
    if policy == "strict_last":
        problem = None if THINK_CLOSE in text else "no_think_close"
    else:
        problem = unreadable(text, opened, finished)
    if problem:
        return OpenAnswer(None, problem)
    conclusion = after_reasoning(text)
    answer = _boxed(conclusion)
    if answer is None:
        marks = list(_FINAL.finditer(conclusion))
        rest = conclusion[marks[-1].end() :].lstrip() if marks else conclusion.strip()
        answer = rest.partition("\n")[0] if marks or "\n" not in rest else ""
    answer = answer.strip().rstrip("*").removesuffix(".").strip("* \t\n")
    return OpenAnswer(answer, "ok") if 0 < len(answer) <= _MAX_CHARS else OpenAnswer(None, "no_answer")


def _boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{}` with balanced braces, or None."""
    for match in reversed(list(_BOXED.finditer(text))[-_TRIES:]):
        depth, start = 1, match.end()
        for index in range(start, min(len(text), start + _MAX_CHARS)):
            depth += {"{": 1, "}": -1}.get(text[index], 0)
            if depth == 0:
                return text[start:index]
    return None


def exact(answer: str, reference: str) -> bool:
    """Whether both are the same text after normalisation."""
    return normalised(answer) == normalised(reference)


def numeric(answer: str, reference: str) -> bool:
    """Whether both are the same number within `RELATIVE` or `ABSOLUTE`; other texts are compared by `exact`.

    Parses fractions, thousands separators (including LaTeX's), currency signs and powers; 50 % is 0.5.
    """
    left, right = number(answer), number(reference)
    if left is None or right is None:
        return exact(answer, reference)
    return math.isclose(left, right, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def number(answer: str) -> float | None:
    """Parse an answer as a finite number, or return None."""
    text = normalised(answer[: _MAX_CHARS + 1])
    if len(text) > _MAX_CHARS:
        return None
    text = _THOUSANDS.sub("", text).replace("$", "").replace("€", "").strip()
    percent = text.endswith("%")
    text = _FRACTION.sub(r"\1/\2", text.removesuffix("%").strip())
    power = _POWER.search(text)
    if power:
        text = f"{text[: power.start()].strip()}e{power.group(1)}"
    parts = [part.strip() for part in text.split("/")]
    values = [value for part in parts if (value := _value(part)) is not None]
    if len(parts) > 2 or len(values) < len(parts) or values[1:] == [0.0]:
        return None
    value = values[0] / (values[1] if len(parts) == 2 else 1.0) / (100.0 if percent else 1.0)
    return value if math.isfinite(value) else None


def _value(text: str) -> float | None:
    """Parse a plain number or an integer power of one."""
    if _NUMBER.fullmatch(text):
        return float(text)
    raised = _RAISED.fullmatch(text)
    if raised is None:
        return None
    sign, base, bare, braced = raised.groups()
    try:
        return float(f"{sign}1") * float(base) ** int(bare or braced)
    except (OverflowError, ZeroDivisionError):
        return None


EQUIVALENCES: dict[str, Equivalence] = {"exact": exact, "numeric": numeric}
"""Built-in checks by name; users' functions are named as `module:function`."""


MATH_VERIFY = "math_verify"
"""Name of the check by an optional package (see `symbolic`)."""


def load_equivalence(name: str) -> Equivalence:
    """Load a check by name, or the function `module:function`.

    Raises:
        UserError: the check, module or function does not exist.
    """
    if name in EQUIVALENCES:
        return EQUIVALENCES[name]
    if name == MATH_VERIFY:
        return load_math_verify()
    if ":" not in name:
        raise UserError(
            f"unknown check of open answers '{name}'; it can be {', '.join([*EQUIVALENCES, MATH_VERIFY])}, "
            "or module:function for a function (answer, reference) -> bool"
        )
    return load_function(name, "the check of open answers")

# SPDX-License-Identifier: Apache-2.0
"""Normalises open answers: removes case, spacing, quotes, LaTeX markup and the final full stop."""

from __future__ import annotations

import re
import unicodedata

_WRAPPED = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|operatorname|mbox|boxed|fbox)\s*\{([^{}]*)\}"
)
_DELIMITED = re.compile(r"\$\$(.*)\$\$|\$(.*)\$|\\\((.*)\\\)|\\\[(.*)\\\]", re.DOTALL)
_SPACING = re.compile(
    r"\\[,;:! ]|\\(?:left|right|displaystyle|textstyle|quad|qquad|limits|[bB]igg?[lr]?)(?![a-zA-Z])|~"
)
_FRACTION = re.compile(r"\\[dtc]?frac\s*(\{[^{}]*\}|\w)\s*(\{[^{}]*\}|\w)")
_ROOT = re.compile(r"\\sqrt\s*(\w)")
_ALONE = re.compile(r"([_^])\s*\{\s*(\w)\s*\}")
_DEGREES = re.compile(r"\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\})")
# MATH writes 10,\!000, others 10{,}000 or 10\,000; a decimal comma is not followed by exactly three digits.
_GROUPED = re.compile(r"(?<=\d)(?:\{,\}(?:\\!)?|,\\!|\\[,!])(?=\d{3}(?!\d))")
_RAISED_DIGITS = re.compile("[⁺⁻]?[⁰¹²³⁴-⁹]+")
_LOWERED_DIGITS = re.compile("[₊₋]?[₀-₉]+")
# "1, 234" is two numbers, "3. 5" two sentences; spaces around other signs have no meaning
_AROUND_SIGNS = re.compile(r"\s*(?!,\s+\d{3}(?!\d))([^\w\s.\\])\s*")
_ROUNDS = 4  # maximum depth of nested markup to unwrap


def normalised(answer: str) -> str:
    """Normalise an answer, so that equivalent spellings become the same text."""
    # NFKC would turn both 10² and 10₂ into 102.
    text = _LOWERED_DIGITS.sub(r"_{\g<0>}", _RAISED_DIGITS.sub(r"^{\g<0>}", answer))
    text = unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-").strip()
    for _ in range(_ROUNDS):
        before = text
        if whole := _DELIMITED.fullmatch(text):
            text = next(part for part in whole.groups() if part is not None).strip()
        text = _WRAPPED.sub(r"\1", text)
        if text == before:
            break
    text = _FRACTION.sub(_fraction, _GROUPED.sub(",", text))
    text = _ALONE.sub(r"\1\2", _DEGREES.sub("°", _ROOT.sub(r"\\sqrt{\1}", text)))
    text = _SPACING.sub(" ", text).replace("\\$", "$").replace("\\%", "%")
    text = " ".join(text.casefold().split()).strip("\"'`")
    return _AROUND_SIGNS.sub(r"\1", text.removesuffix(".")).strip()


def _fraction(match: re.Match[str]) -> str:
    over, under = (part if part.startswith("{") else f"{{{part}}}" for part in match.groups())
    return f"\\frac{over}{under}"

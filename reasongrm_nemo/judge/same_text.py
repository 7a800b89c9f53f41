# SPDX-License-Identifier: Apache-2.0
"""An open answer without what says nothing: case, spacing, quotes, LaTeX's dress, the final full stop."""

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
# MATH writes 10,\!000, others 10{,}000 or 10\,000; a decimal comma has no three digits behind it.
_GROUPED = re.compile(r"(?<=\d)(?:\{,\}(?:\\!)?|,\\!|\\[,!])(?=\d{3}(?!\d))")
_RAISED_DIGITS = re.compile("[⁺⁻]?[⁰¹²³⁴-⁹]+")
_LOWERED_DIGITS = re.compile("[₊₋]?[₀-₉]+")
# "1, 234" is two numbers, "3. 5" two sentences; a space beside any other sign says nothing
_AROUND_SIGNS = re.compile(r"\s*(?!,\s+\d{3}(?!\d))([^\w\s.\\])\s*")
_ROUNDS = 4  # of unwrapping what stands in one another


def normalised(answer: str) -> str:
    """The text that two answers share when they are the same but for what says nothing."""
    # NFKC would make 102 of 10² and of 10₂.
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

# SPDX-License-Identifier: Apache-2.0
"""When two texts are the same: the one rule for prompts and answers, copies and contradictions."""

from __future__ import annotations

import re
import unicodedata

_RUN = re.compile(r"\s+")
_INDENT = 2
"""Columns from which a line's indentation counts: code means something by it."""
_INDENTED = re.compile(r"\n[^\S\n]*(?:\t|[^\S\n]{2})")


def same_key(text: str) -> str:
    """Texts with equal keys are the same.

    The Unicode form (NFC) and white space make no difference: ends, blank lines, line breaks and runs.  What
    does is the indentation of a line after the first, from two columns on.  Case and punctuation count.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if _INDENTED.search(text) is None:
        return " ".join(text.split())
    return _RUN.sub(_space, text.strip())


def _space(run: re.Match[str]) -> str:
    _, line_feed, indent = run[0].rpartition("\n")
    columns = len(indent.expandtabs(4)) if line_feed else 0
    return " " if columns < _INDENT else f"\n{' ' * columns}"

# SPDX-License-Identifier: Apache-2.0
"""When two texts count as the same: the rule for prompts, answers, duplicates and contradictions."""

from __future__ import annotations

import re
import unicodedata

_RUN = re.compile(r"\s+")
_INDENT = 2
"""Least indentation that counts, in columns: it is significant in code."""
_INDENTED = re.compile(r"\n[^\S\n]*(?:\t|[^\S\n]{2})")


def same_key(text: str) -> str:
    """A key that is equal for texts that count as the same.

    Differences in Unicode form (NFC) and white space are ignored: at the ends, blank lines, line breaks and
    runs. The indentation of a line after the first counts from two columns on; case and punctuation count.
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

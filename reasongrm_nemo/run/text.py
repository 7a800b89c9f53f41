# SPDX-License-Identifier: Apache-2.0
"""Text output: tables, and escaping of text from outside."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from rich.cells import cell_len

_MARKDOWN = re.compile(r"[\\`*_\[\]<>|#~$]|&(?=#?\w+;)")
_FIGURE = re.compile(r"[\d\s.,:+±%–e\[\]-]*")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': r"\textquotedbl{}",
    # after a row's end these would be read as options
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}


def printable(text: str, keep: str = "") -> str:
    r"""Replaces characters that a terminal would not show by escapes such as `\x1b`.

    These are control characters, marks that change the writing direction or join and hide characters, and
    line and paragraph separators. A lone surrogate becomes U+FFFD.

    Args:
        text: from a file or another program.
        keep: control characters to keep, such as newlines.
    """
    return "".join(char if char in keep or _shown(char) else _escape(char) for char in text)


def _shown(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) in ("Zs", "Co", "Cn")


def _escape(char: str) -> str:
    code = ord(char)
    if 0xD800 <= code < 0xE000:
        return "\N{REPLACEMENT CHARACTER}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def in_json(text: str) -> str:
    """JSON text with the characters that `printable` replaces as JSON escapes; the data is unchanged."""
    return "".join(
        char if char == "\n" or _shown(char) else "".join(f"\\u{unit:04x}" for unit in _utf16(char))
        for char in text
    )


def _utf16(char: str) -> list[int]:
    data = char.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]


def markdown(text: str) -> str:
    """Escapes a name or sentence for Markdown, so that nothing in it is read as markup, HTML or a formula."""
    if _FIGURE.fullmatch(text):
        return printable(text)
    return _MARKDOWN.sub(lambda sign: f"\\{sign[0]}", printable(text)).replace("://", r":\//")


def latex(text: str) -> str:
    """Escapes a name or sentence for LaTeX."""
    return "".join(_LATEX.get(sign, sign) for sign in printable(text))


def padded(text: str, width: int, right: bool = False) -> str:
    """The text filled up with spaces to a width in terminal cells, of which a CJK character takes two."""
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Lines of a table; the columns in `left` are left-aligned text, the others right-aligned figures."""
    table = [[printable(cell) for cell in line] for line in [head, *rows]]
    widths = [max(cell_len(line[i]) for line in table) for i in range(len(head))]
    lines = []
    for line in [table[0], ["-" * width for width in widths], *table[1:]]:
        cells = [
            padded(cell, width, right=i not in left)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; the cells are escaped."""
    lines = ["| " + " | ".join(map(markdown, head)) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(map(markdown, row)) + " |" for row in rows]

# SPDX-License-Identifier: Apache-2.0
"""Shows two paths side by side as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest

from rich.cells import set_cell_size

from reasongrm_nemo.data.records import ReasoningPath
from reasongrm_nemo.rstar.score import score_sums

WIDTH = 58
"""Terminal cells per column; a CJK character takes two."""


def side_by_side(high: ReasoningPath, low: ReasoningPath, width: int = WIDTH) -> str:
    """Format two paths with their figures, the first on the left; unprintable characters become dots."""
    columns = [_column(path, width) for path in (high, low)]
    rows = zip_longest(*columns, fillvalue="")
    return "\n".join(f"{set_cell_size(left, width)} | {right}".rstrip() for left, right in rows) + "\n"


def _column(path: ReasoningPath, width: int) -> list[str]:
    score = score_sums(path)
    head = [
        f"task {path.task_id}, sample {path.sample}",
        f"R* {score.score:.4f} = {score.self_consistency:.4f} x {score.validity:.4f}",
        f"{path.reasoning_tokens} + {path.answer_tokens} tokens",
    ]
    text = path.text.replace("\t", "    ").split("\n")
    shown = ["".join(char if char.isprintable() else "." for char in paragraph) for paragraph in text]
    return [*_wrapped(head, width), "-" * width, *_wrapped(shown, width)]


def _wrapped(paragraphs: Iterable[str], width: int) -> Iterator[str]:
    """Lines of at most so many cells, broken at spaces where possible; one for an empty paragraph."""
    # imported late: everything that selects paths imports this module, and few show any
    from rich.console import Console
    from rich.text import Text

    console = Console(width=width)
    for paragraph in paragraphs:
        yield from [line.plain.rstrip() for line in Text(paragraph).wrap(console, width)] or [""]

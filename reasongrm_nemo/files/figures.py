# SPDX-License-Identifier: Apache-2.0
"""Figures a run appends line by line (metrics.jsonl and its like), read back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasongrm_nemo.files.documents import parse_json
from reasongrm_nemo.files.documents import read_json as read_json
from reasongrm_nemo.files.lines import bounded_lines, open_packed
from reasongrm_nemo.files.shapes import shaped

if TYPE_CHECKING:
    pass


_STEP = {"step": int}


def read_figures(path: Path, shape: Any = _STEP) -> Iterator[tuple[str, dict[str, Any]]]:
    """Text and figures of each line of metrics.jsonl or its like; a last one that is torn is left out.

    Raises:
        UserError: a line is too long, is no JSON, or has another shape (`shapes.shaped`).
    """
    if not path.exists():
        return
    with open_packed(path) as file:
        for number, line in enumerate(bounded_lines(file, path), 1):
            if not line.endswith(b"\n"):
                return
            text, where = line.decode("utf-8", errors="replace"), f"{path}:{number}"
            yield text, shaped(parse_json(text, where), shape, where)

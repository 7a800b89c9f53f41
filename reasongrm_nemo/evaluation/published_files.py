# SPDX-License-Identifier: Apache-2.0
"""Reads the benchmarks' published files, item by item.

Each benchmark's module knows its files and the subset and cells of a row; `reasongrm_nemo.data.forms` knows
the forms of rows. Items with empty or equal answers are kept, so that the counts are the published ones; an
unreadable item is left out under a reason, and the score then tells that items are missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reasongrm_nemo.data.forms import plain_rows
from reasongrm_nemo.data.pairs import MAX_CHARS, content_id, pair_from_row, without_nul
from reasongrm_nemo.data.problems import RowProblem
from reasongrm_nemo.data.rows import BrokenRow, find_files, read_rows
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation.items import REASONS, Item, LoadedItems, WrongForm
from reasongrm_nemo.evaluation.registry import MODULES, Benchmark

_TOLERATED = frozenset({"empty_answer", "identical_answers"})


def read_items(benchmark: str, path: str | Path) -> LoadedItems:
    """All items of a benchmark's file or folder.

    Raises:
        UserError: there is no file, a file is unreadable, names an unknown subset or contradicts itself, or
            no item is left.
    """
    loaded = LoadedItems(benchmark)
    module = MODULES[benchmark]
    files = find_files(path)
    loaded.files = (module.own_files(files) if Path(path).is_dir() else []) or files
    loaded.unread_files = [file for file in files if file not in set(loaded.files)]
    placed: list[tuple[str, Item]] = []
    for file in loaded.files:
        for where, row in read_rows(file):
            loaded.read += 1
            try:
                placed.append((where, _item(module, row, file, where)))
            except RowProblem as problem:
                loaded.drop(problem.reason, where)
            except WrongForm:
                loaded.drop("wrong_form", where)
    loaded.items = list(_distinct(placed, loaded))
    if not loaded.items:
        first = loaded.dropped[0]
        counts = ", ".join(f"{count} {REASONS[reason]}" for reason, count in loaded.drops.most_common())
        raise UserError(
            f"{path}: none of the {loaded.read} rows is an item of {benchmark} ({counts}; the first is "
            f"{first.where}); give that benchmark's own files"
        )
    return loaded


def _item(module: Benchmark, row: Any, file: Path, where: str) -> Item:
    """The item in a row.

    Raises:
        RowProblem: a part of the row cannot be read.
        WrongForm: the row is not an item of the benchmark.
        UserError: the benchmark does not have the row's subset.
    """
    if isinstance(row, BrokenRow):
        raise RowProblem("broken_line")
    if not isinstance(row, dict):
        raise WrongForm
    subset, name = module.subset_and_id(row, file, where)
    offered = plain_rows(row)
    cells = module.cells_of(subset, row)
    if len(cells) != len(offered):
        raise WrongForm
    if any(plain.get(side) is None for plain in offered for side in ("chosen", "rejected")):
        raise RowProblem("wrong_type")  # benchmarks write empty answers as empty text
    pairs = {
        cell: without_nul(pair_from_row(fields, subset, MAX_CHARS, _TOLERATED))
        for cell, fields in zip(cells, offered, strict=True)
    }
    first = next(iter(pairs.values()))
    return Item(module.BENCHMARK, subset, _name(name) or content_id(first.prompt, first.chosen), pairs)


def _name(value: Any) -> str | None:
    """An id, if printable and not too long; otherwise None."""
    text = str(value) if type(value) in (int, str) else ""
    return text if 0 < len(text) <= 200 and text.isprintable() else None


def _distinct(placed: Sequence[tuple[str, Item]], loaded: LoadedItems) -> Iterator[Item]:
    """The distinct items, with unique ids within a subset."""
    contents = [_content(item) for _, item in placed]
    by_key: dict[str, set[str]] = {}
    for (_, item), content in zip(placed, contents, strict=True):
        by_key.setdefault(item.key, set()).add(content)
    seen: set[tuple[str, str]] = set()
    for (where, item), content in zip(placed, contents, strict=True):
        if (item.key, content) in seen:
            loaded.drop("repeated", where, item.item_id)
            continue
        seen.add((item.key, content))
        # If items share an id, their content's hash is added, which is independent of the order of files.
        shared = len(by_key[item.key]) > 1
        name = f"{item.item_id}-{content}" if shared else item.item_id
        yield Item(item.benchmark, item.subset, name, item.pairs)


def _content(item: Item) -> str:
    pairs = item.pairs.values()
    first = next(iter(pairs))
    return content_id(first.prompt, *(text for pair in pairs for text in (pair.chosen, pair.rejected)))

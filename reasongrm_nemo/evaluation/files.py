# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' files as published, item by item.

- RewardBench: rows of `prompt`, `chosen`, `rejected`, `subset`, `id` (Parquet or JSON); of a folder the files
  named `filtered*`, which are the 2,985 items, where there are such.
- RM-Bench: `total_dataset.json`, whose rows say their `domain`, or `<subset>_filtered.json` a subset; rows
  hold three `chosen` and three `rejected` answers.
- RMB: the folders `Pairwise_set` and `BoN_set` (either or both, or a file in them); a row's `category_path`,
  or else the file's path, is its subset.

`reasongrm_nemo.data.forms` knows the rows' forms.  An item counts as it is, with empty or equal answers too,
so that the counts are the published ones; where a part of it cannot be read it is left out whole, under a
reason, and the score then says that items are missing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasongrm_nemo.data.forms import plain_rows
from reasongrm_nemo.data.pairs import MAX_CHARS, content_id, pair_from_row, without_nul
from reasongrm_nemo.data.problems import DROP_REASONS, RowProblem
from reasongrm_nemo.data.records import PreferencePair
from reasongrm_nemo.data.rows import BrokenRow, find_files, read_rows
from reasongrm_nemo.data.sources import Dropped
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation import rewardbench, rm_bench, rmb
from reasongrm_nemo.evaluation.policies import nearest

REASONS = DROP_REASONS | {
    "wrong_form": "the row is not an item of this benchmark",
    "repeated": "the item is there twice, the same both times",
    "huge_text": f"the texts are longer than {MAX_CHARS} characters",
}
"""Every reason an item is left out for, in words."""

_TOLERATED = frozenset({"empty_answer", "identical_answers"})
_SETS = ("Pairwise_set", "BoN_set")
_ROTATED = re.compile(r"total_dataset_\d")


@dataclass(frozen=True)
class Item:
    """One item: its pairs by cell (`None` where an item is one pair)."""

    benchmark: str
    subset: str
    item_id: str
    pairs: dict[str | None, PreferencePair]

    @property
    def key(self) -> str:
        """Its name among all benchmarks' items."""
        return f"{self.benchmark}/{self.subset}/{self.item_id}"


@dataclass
class LoadedItems:
    """Items in the files' order, and the account of what was left out: `read` = items + all `drops`."""

    benchmark: str
    items: list[Item] = field(default_factory=list)
    read: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    dropped: list[Dropped] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    unread_files: list[Path] = field(default_factory=list)
    """Files of the folder that are none of the benchmark's, or say the same again."""

    def drop(self, reason: str, where: str, item: str | None = None) -> None:
        """Count one item under a reason."""
        self.drops[reason] += 1
        self.dropped.append(Dropped(reason, where, item))


def read_items(benchmark: str, path: str | Path) -> LoadedItems:
    """All items of a benchmark's file or folder.

    Raises:
        UserError: there is no file, one cannot be read as its kind, names a subset that the benchmark lacks,
            or says two different things; or no item is left.
    """
    loaded = LoadedItems(benchmark)
    loaded.files, loaded.unread_files = _choose_files(benchmark, Path(path))
    placed: list[tuple[str, Item]] = []
    for file in loaded.files:
        for where, row in read_rows(file):
            loaded.read += 1
            try:
                placed.append((where, _item(benchmark, row, file, where)))
            except RowProblem as problem:
                loaded.drop(problem.reason, where)
            except _WrongForm:
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


class _WrongForm(Exception):
    """A row that is none of the benchmark's items."""


def _choose_files(benchmark: str, path: Path) -> tuple[list[Path], list[Path]]:
    """The benchmark's files at a path, and those there that are not read."""
    files = find_files(path)
    wanted = [file for file in files if _belongs(benchmark, file, path)] if path.is_dir() else files
    if benchmark == rm_bench.BENCHMARK:
        whole = [file for file in wanted if _stem(file) == "total_dataset"]
        wanted = whole or wanted
        for file in wanted or files:
            if _ROTATED.fullmatch(_stem(file)):
                raise UserError(
                    f"{file}: this is one of RM-R1's three rotated copies, in which the rejected answers' "
                    "styles are out of place; give RM-Bench's own total_dataset.json"
                )
    wanted = wanted or files
    return wanted, [file for file in files if file not in set(wanted)]


def _belongs(benchmark: str, file: Path, folder: Path) -> bool:
    if benchmark == rewardbench.BENCHMARK:
        return file.name.startswith("filtered")
    if benchmark == rm_bench.BENCHMARK:
        return _stem(file) == "total_dataset" or _stem(file).removesuffix("_filtered") in rm_bench.ITEMS
    return any(part in _SETS for part in file.absolute().parts)


def _stem(file: Path) -> str:
    return file.name.split(".")[0]


def _item(benchmark: str, row: Any, file: Path, where: str) -> Item:
    """The item of a row.

    Raises:
        RowProblem: a part of it cannot be read.
        _WrongForm: it is of another form.
        UserError: its subset is none of the benchmark's.
    """
    if isinstance(row, BrokenRow):
        raise RowProblem("broken_line")
    if not isinstance(row, dict):
        raise _WrongForm
    subset, name = _FORMS[benchmark](row, file, where)
    offered = plain_rows(row)
    cells = _cells(benchmark, subset, row, offered)
    if any(plain.get(side) is None for plain in offered for side in ("chosen", "rejected")):
        raise RowProblem("wrong_type")  # a benchmark's empty answer is written as one
    pairs = {
        cell: without_nul(pair_from_row(fields, subset, MAX_CHARS, _TOLERATED))
        for cell, fields in zip(cells, offered, strict=True)
    }
    first = next(iter(pairs.values()))
    return Item(benchmark, subset, _name(name) or content_id(first.prompt, first.chosen), pairs)


def _cells(benchmark: str, subset: str, row: dict[str, Any], offered: Sequence[Any]) -> list[str | None]:
    """The cells of the pairs that a row offers, in their order."""
    if benchmark == rm_bench.BENCHMARK:
        styles = [row.get(side) for side in ("chosen", "rejected")]
        if not all(isinstance(texts, list) and len(texts) == 3 for texts in styles) or len(offered) != 9:
            raise _WrongForm
        return [f"{i}-{j}" for i in rm_bench.STYLES for j in rm_bench.STYLES]
    if benchmark == rmb.BENCHMARK and rmb.is_best_of_n(subset):
        if not isinstance(row.get("loser_list"), list) or len(offered) != len(row["loser_list"]):
            raise _WrongForm
        return [str(number) for number in range(len(offered))]
    if len(offered) != 1:
        raise _WrongForm
    return [None]


def _rewardbench_subset(row: dict[str, Any], file: Path, where: str) -> tuple[str, Any]:
    if not isinstance(row.get("chosen"), str) or not isinstance(row.get("subset"), str):
        raise _WrongForm
    return _known(row["subset"], rewardbench.ITEMS, rewardbench.BENCHMARK, where), row.get("id")


def _rm_bench_subset(row: dict[str, Any], file: Path, where: str) -> tuple[str, Any]:
    if not isinstance(row.get("chosen"), list):
        raise _WrongForm
    by_name = _stem(file).removesuffix("_filtered")
    domain = row.get("domain")
    if isinstance(domain, str):
        subset = _known(domain, rm_bench.ITEMS, rm_bench.BENCHMARK, where)
        if by_name in rm_bench.ITEMS and by_name != subset:
            raise UserError(f"{where}: the row's domain is '{subset}', its file's name says '{by_name}'")
        return subset, row.get("id")
    if by_name not in rm_bench.ITEMS:
        raise UserError(
            f"{where}: the row has no 'domain', and the file's name is not <domain>_filtered.json, with "
            f"one of {', '.join(rm_bench.ITEMS)}"
        )
    return by_name, row.get("id")


def _rmb_subset(row: dict[str, Any], file: Path, where: str) -> tuple[str, Any]:
    if "conversation_input" not in row:
        raise _WrongForm
    stated = row.get("category_path")
    by_path = _rmb_path(file)
    if not isinstance(stated, str):
        stated = by_path
    if stated is None:
        raise UserError(
            f"{where}: the row has no 'category_path', and the file is in no folder {' or '.join(_SETS)}"
        )
    subset = _known(stated, rmb.counts(), rmb.BENCHMARK, where)
    if by_path in rmb.counts() and by_path != subset:
        raise UserError(f"{where}: the row's category_path is '{subset}', its file lies at '{by_path}'")
    best_of_n = rmb.is_best_of_n(subset)
    if best_of_n != ("loser_list" in row):
        raise _WrongForm
    return subset, row.get("bon_uid" if best_of_n else "pair_uid")


def _rmb_path(file: Path) -> str | None:
    """A file's place as RMB writes it: from `Pairwise_set` or `BoN_set` on, without suffixes."""
    parts = file.absolute().parts
    start = max((index for index, part in enumerate(parts) if part in _SETS), default=None)
    return None if start is None else "/".join([*parts[start:-1], _stem(file)])


_FORMS = {
    rewardbench.BENCHMARK: _rewardbench_subset,
    rm_bench.BENCHMARK: _rm_bench_subset,
    rmb.BENCHMARK: _rmb_subset,
}


def _known(name: str, known: Any, benchmark: str, where: str) -> str:
    if name not in known:
        raise UserError(f"{where}: {benchmark} has no subset '{name[:80]}'{nearest(name, known)}")
    return name


def _name(value: Any) -> str | None:
    """An id that can stand in a log; anything else is as good as none."""
    text = str(value) if type(value) in (int, str) else ""
    return text if 0 < len(text) <= 200 and text.isprintable() else None


def _distinct(placed: Sequence[tuple[str, Item]], loaded: LoadedItems) -> Iterator[Item]:
    """The items with ids that differ within a subset, once each."""
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
        # One id for several contents: each gets its content's hash, which no order of files changes.
        shared = len(by_key[item.key]) > 1
        name = f"{item.item_id}-{content}" if shared else item.item_id
        yield Item(item.benchmark, item.subset, name, item.pairs)


def _content(item: Item) -> str:
    pairs = item.pairs.values()
    first = next(iter(pairs))
    return content_id(first.prompt, *(text for pair in pairs for text in (pair.chosen, pair.rejected)))

# SPDX-License-Identifier: Apache-2.0
"""Result files of other projects' scripts, as rows of the verdict log.

- RewardBench (reward-bench 05a9005e): the columns that `run_rm.py`, `run_dpo.py` and `run_generative.py` save
  as one object, and the rows of RM-R1's `log_result/logs.json`.
- RM-Bench (73c52d7b): the items with three `score_chosen` and three `score_rejected` of `run_rm.py` and
  `run_dpo.py`, and RM-R1's three files with three `result` and `output` an item.
- RMB (2be31808): the rows of `my_run_rm.py`, and those of RM-R1's `logs.json`, `raw_logs.json` and
  `group_by_same_id_logs.json`, of judges and of scalar models.

`foreign_row` reads one judgement of any of them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.data.rows import BrokenRow, find_files, read_rows
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation import rewardbench, rm_bench, rmb
from reasongrm_nemo.evaluation.foreign_row import FIELDS, SCORES, Row, said, styled, verdict
from reasongrm_nemo.evaluation.policies import nearest
from reasongrm_nemo.files.lines import open_packed, parse_line, read_lines

SUMMARIES = frozenset(
    {
        "main_score",
        "each_small_section_score",
        "Final_score",
        "META_RESULT",
        "final_result",
        "final_score",
        "rm_rank",
    }
)
"""Names of files that hold figures, no judgements."""
_GROUPED = "group_by_same_id_logs"  # what raw_logs.json beside it holds too
_ROTATION = re.compile(r"total_dataset_([123])(_|\.|$)")
_DOMAIN = re.compile(rf"({'|'.join(rm_bench.ITEMS)})_filtered")
MATRIX = range(3)


def is_foreign(path: Path) -> bool:
    """Whether a file is no verdict log by its first line, but what one of the scripts may have written."""
    if path.is_dir():
        return True
    _, line = next(read_lines(path), (0, b""))
    try:
        first = parse_line(line)
    except (ValueError, RecursionError):
        return line.strip() == b"{" or line.strip().startswith(b"[")  # an indented file
    if isinstance(first, dict):
        return "item_id" not in first and ("benchmark" not in first or not FIELDS.isdisjoint(first))
    return isinstance(first, list)


def read_results(project: str, path: Path) -> Iterator[Verdict]:
    """The judgements of a result file, or of all in a folder.

    Args:
        project: whose script wrote it: `rewardbench`, `rm_bench` or `rmb`, which is the benchmark too.
        path: the file or folder.

    Raises:
        UserError: nothing there holds judgements, a row is of no known form or names an unknown subset, or
            its scores and its result disagree.
    """
    for file in _files(path):
        yield from _READERS[project](file)


def _files(path: Path) -> list[Path]:
    files = find_files(path)
    if not path.is_dir():
        return files
    kept = [file for file in files if file.name.split(".")[0] not in SUMMARIES]
    whole = {file.parent for file in kept if file.name.startswith("raw_logs.")}
    kept = [file for file in kept if not (file.name.startswith(_GROUPED) and file.parent in whole)]
    if not kept:
        raise UserError(f"{path}: the folder has only files with final figures, none with judgements")
    return kept


def _rows(file: Path) -> Iterator[tuple[str, Row]]:
    """Place and row of each judgement or item in a file of any of the forms."""
    for where, row in _unpacked(file):
        if isinstance(row, BrokenRow):
            raise UserError(f"{where}: not a JSON line ({row.problem})")
        if not isinstance(row, dict) or FIELDS.isdisjoint(row):
            what = f"the fields {', '.join(map(str, row))[:120]}" if isinstance(row, dict) else "no fields"
            raise UserError(
                f"{where}: holds no judgement, but {what}; give the file with the results or scores of "
                "every item, not one with figures over them"
            )
        yield where, row


def _unpacked(file: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a list, of lines, of an object of columns, or of one of groups."""
    whole = _one_object(file)
    if whole is None:
        yield from read_rows(file)
    elif columns := [
        name for name in sorted(FIELDS) if isinstance(whole.get(name), list) and "subset" in whole
    ]:
        count = len(whole[columns[0]])
        listed = {name: value for name, value in whole.items() if isinstance(value, list)}
        for name, value in listed.items():
            if len(value) != count:
                raise UserError(f"{file}: has {count} {columns[0]} but {len(value)} {name}")
        for index in range(count):
            yield f"{file}[{index}]", {name: value[index] for name, value in listed.items()}
    elif whole and all(isinstance(group, list) for group in whole.values()):
        for name, group in whole.items():
            for index, row in enumerate(group):
                yield f"{file}[{name}][{index}]", row
    else:
        yield str(file), whole


_MAX_OBJECT = 512 << 20  # the largest of those projects' files has some 100 MB


def _whole_text(file: Path) -> bytes:
    """All of a file, or nothing where that is too much for one object; a packed one is measured first."""
    with open_packed(file) as opened:
        size = 0
        while block := opened.read(1 << 20):
            if not size and not block.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
                return b""
            size += len(block)
            if size > _MAX_OBJECT:
                return b""
    with open_packed(file) as opened:
        return opened.read(_MAX_OBJECT)


def _one_object(file: Path) -> Row | None:
    """The object that the whole file is, or None where it is a list or lines."""
    if file.name.endswith(".parquet"):
        return None
    text = _whole_text(file)
    if not text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None  # lines; what is neither is refused by their reader
    single = not FIELDS.isdisjoint(data) and not any(isinstance(data[n], list) for n in FIELDS & data.keys())
    return None if single else data


# -- the three projects ----------------------------------------------------------------------------------


def _rewardbench(file: Path) -> Iterator[Verdict]:
    names = _Names()
    for where, row in _rows(file):
        subset = _known(row.get("subset"), rewardbench.ITEMS, "rewardbench", where, "subset")
        item = names.once(subset, _id(row.get("id")) or _texts_id(row))
        yield verdict(where, row, ("rewardbench", subset, item, None), said(row))


def _rm_bench(file: Path) -> Iterator[Verdict]:
    names = _Names()
    by_name = _DOMAIN.match(file.name)
    for where, row in _rows(file):
        domain = row.get("domain") or (by_name and by_name[1])
        subset = _known(domain, rm_bench.ITEMS, "rm_bench", where, "domain")
        item = names.once(subset, _id(row.get("id")) or _texts_id(row))
        for i, j, cell_row in _cells(row, file, where):
            yield verdict(where, cell_row, ("rm_bench", subset, item, f"{i}-{j}"), styled(row, i, cell_row))


def _cells(row: Row, file: Path, where: str) -> Iterator[tuple[int, int, Row]]:
    """The styles of each of an item's pairs, and the row of its judgement alone."""
    lists = {name: value for name in FIELDS if isinstance(value := row.get(name), list)}
    for name, value in lists.items():
        if len(value) != len(MATRIX):
            raise UserError(
                f"{where}: has {len(value)} values under '{name}'; an item has one a style, three"
            )
    if lists.keys() & {name for pair in SCORES for name in pair}:
        chosen, rejected = next((pair for pair in SCORES if pair[0] in lists), SCORES[1])
        if chosen not in lists or rejected not in lists:
            raise UserError(f"{where}: has one of '{chosen}' and '{rejected}' as a list; give both")
        for i in MATRIX:
            for j in MATRIX:
                scores = {chosen: lists[chosen][i], rejected: lists[rejected][j]}
                yield i, j, scores | {"rejected_style": j}
        return
    rotation = _ROTATION.match(file.name)
    if rotation is None:
        raise UserError(
            f"{where}: holds three judgements of an item, and which of the nine pairs they are of is said by "
            "the file's name alone; name it as RM-R1 does, total_dataset_1_*.json to total_dataset_3_*.json"
        )
    for i in MATRIX:
        fields = {name: value[i] for name, value in lists.items()}
        yield i, (i + int(rotation[1]) - 1) % 3, fields | {"rejected_style": i}


def _rmb(file: Path) -> Iterator[Verdict]:
    names, losers = _Names(), Counter[tuple[str, str]]()
    groups: dict[tuple[str, Any, Any], str] = {}
    for where, row in _rows(file):
        path = row.get("category_path")
        path = path.removesuffix(".json") if isinstance(path, str) else path
        subset = _known(path, rmb.counts(), "rmb", where, "category_path")
        if not rmb.is_best_of_n(subset):
            item = names.once(subset, _id(row.get("pair_uid")) or _texts_id(row))
            yield verdict(where, row, ("rmb", subset, item, None), said(row))
            continue
        group = (subset, row.get("bon_uid"), row.get("idx"))
        if group[1:] == (None, None):
            raise UserError(f"{where}: has neither 'bon_uid' nor 'idx', which tell the groups apart")
        if group not in groups:
            groups[group] = names.once(subset, _id(group[1]) or f"{group[2]}")
        item = groups[group]
        cell = str(losers[subset, item])
        losers[subset, item] += 1
        yield verdict(where, row, ("rmb", subset, item, cell), said(row))


_READERS = {"rewardbench": _rewardbench, "rm_bench": _rm_bench, "rmb": _rmb}
PROJECTS = tuple(_READERS)


# -- names -----------------------------------------------------------------------------------------------


class _Names:
    """The items' names in a file; one that is there again is another item, as the scripts count it."""

    def __init__(self) -> None:
        self._seen = Counter[tuple[str, str]]()

    def once(self, subset: str, name: str) -> str:
        self._seen[subset, name] += 1
        count = self._seen[subset, name]
        return name if count == 1 else f"{name}-{count}"


def _id(value: Any) -> str | None:
    return str(value) if type(value) in (int, str) and value != "" else None


def _texts_id(row: Row) -> str:
    """A name from what an item without one says."""
    texts = [row.get(name) for name in ("prompt", "text_chosen", "text_rejected", "chosen", "rejected")]
    return hashlib.sha256(json.dumps(texts).encode("ascii")).hexdigest()[:16]


def _known(
    name: Any, known: Mapping[str, object] | Sequence[str], project: str, where: str, field: str
) -> str:
    if not isinstance(name, str):
        raise UserError(
            f"{where}: has no '{field}', which says the subset of {project}; give the file that has it"
        )
    if name not in known:
        raise UserError(f"{where}: {project} has no subset '{name[:80]}'{nearest(name, known)}")
    return name

# SPDX-License-Identifier: Apache-2.0
"""Preference pairs from files, validated; what is left out is counted under a named reason.

`reasongrm_nemo.data.forms` lists the forms a row may have; `prepare.columns` maps any other.  Fields of
neither are ignored.  Copies and contradictions go by one rule (`reasongrm_nemo.data.sameness`).  Text is
data: what could pass for a control token, a verdict or the end of the reasoning is broken up where the prompt
is built (`reasongrm_nemo.judge.sanitize`), not here; here NUL becomes U+FFFD, and what is no Unicode or too
long is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from reasongrm_nemo.data.base_record import Record
from reasongrm_nemo.data.columns import Columns
from reasongrm_nemo.data.forms import form_of, labelled, plain_rows, read_fields
from reasongrm_nemo.data.labels import Numbers, counted, meaning
from reasongrm_nemo.data.nearest_form import fields_of, refusal
from reasongrm_nemo.data.pairs import MAX_CHARS, content_id, keyed, pair_from_row, without_nul
from reasongrm_nemo.data.problems import RowProblem
from reasongrm_nemo.data.records import PreferencePair, QuestionAnswer
from reasongrm_nemo.data.rows import find_files, read_rows
from reasongrm_nemo.data.sameness import same_key
from reasongrm_nemo.errors import UserError

T = TypeVar("T", PreferencePair, QuestionAnswer)

EXAMPLES_KEPT = 3
_UNREAD = 20
_PEEK = 1000
"""Rows of a file among which a number as a label must turn up, if the file has any."""


@dataclass(frozen=True)
class Dropped(Record):
    """A pair that was left out: why, where it stood ("file:line"; or nowhere now), its id if it had one."""

    reason: str
    where: str | None = None
    id: str | None = None
    detail: str | None = None


@dataclass
class Loaded:
    """The account of what was read and left out."""

    rows: int = 0
    read: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    dropped: list[Dropped] = field(default_factory=list)
    nul: int = 0
    """Kept records that held NUL, now U+FFFD."""
    refused: str = ""
    """What is said of the first row that was left out."""

    @property
    def examples(self) -> dict[str, list[str]]:
        """The first few places by reason."""
        examples: dict[str, list[str]] = {}
        for drop in self.dropped:
            places = examples.setdefault(drop.reason, [])
            if len(places) < EXAMPLES_KEPT and drop.where:
                places.append(drop.where)
        return examples

    def drop(self, reason: str, where: str, pair_id: str | None = None, detail: str | None = None) -> None:
        """Count one record under a reason."""
        self.drops[reason] += 1
        self.dropped.append(Dropped(reason, where, pair_id, detail))

    def refuse(self, where: str, row: Any, problem: RowProblem) -> None:
        """Count one row, or one pair of it, that makes no record."""
        self.refused = self.refused or refusal(where, row, problem)
        unknown = problem.reason == "unknown_form" and isinstance(row, dict)
        self.drop(problem.reason, where, detail=fields_of(row) if unknown else problem.detail)


@dataclass
class LoadedPairs(Loaded):
    """Pairs and the account of what was left out: `read` = `len(pairs)` + all `drops`.

    A row of RM-Bench or of RMB's best-of-N offers several pairs, and `read` counts each; `rows` counts rows.
    """

    pairs: list[PreferencePair] = field(default_factory=list)
    forms: Counter[str] = field(default_factory=Counter)
    """Rows by the fields that they were read by."""
    unread: set[str] = field(default_factory=set)
    """Fields of such rows that were not read; a few."""


def read_pairs(
    paths: str | Path | Sequence[str | Path],
    max_chars: int = MAX_CHARS,
    columns: Mapping[str, Any] | None = None,
) -> LoadedPairs:
    """All valid, distinct pairs of files or folders, in the order they stand, each with an id of its own.

    Args:
        paths: `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv` (each also `.gz` or `.zst`), `.parquet`, or
            folders of such files.
        max_chars: a pair whose texts have more characters together is refused.
        columns: `prepare.columns`.

    Raises:
        UserError: a file is missing, empty or not readable as its kind, its labels can be read in two ways, a
            field of `columns` is in no row, or no valid pair is left.
    """
    loaded, mapped = LoadedPairs(), Columns.of(columns)

    def opened(file: Path) -> Callable[[Any], Iterable[Any]]:
        numbers = label_numbers(file, mapped)

        def offered(row: Any) -> Iterable[Any]:
            known = mapped.apply(row)
            if form := form_of(known):
                loaded.forms[form + counted(known, labelled(known), numbers)] += 1
                if len(loaded.unread) < _UNREAD:
                    loaded.unread |= {str(name) for name in known} - read_fields(known)
            return plain_rows(known, numbers)

        return offered

    placed = gather(
        paths, loaded, opened, lambda row, source: pair_from_row(row, source, max_chars), without_nul
    )
    if placed:
        mapped.check_met(", ".join(map(str, _listed(paths))))
    _keep_distinct(placed, loaded)
    if not loaded.pairs:
        raise none_left(paths, loaded, "a preference pair")
    return loaded


def gather(
    paths: str | Path | Sequence[str | Path],
    loaded: Loaded,
    opened: Callable[[Path], Callable[[Any], Iterable[Any]]],
    parse: Callable[[Any, str], T],
    clean: Callable[[T], T],
) -> list[tuple[str, T]]:
    """Every sound record of files or folders with its place ("file:line"), in the order they stand.

    Args:
        paths: as for `read_pairs`.
        loaded: gets the account.
        opened: for a file the function from a row to the plain rows that it offers.
        parse: a plain row and the file's name as a record; raises `RowProblem`.
        clean: the record without NUL; itself, or an equal one, where there is none.
    """
    placed: list[tuple[str, T]] = []
    for file in [file for path in _listed(paths) for file in find_files(path)]:
        offered: Callable[[Any], Iterable[Any]] = opened(file)
        for where, row in read_rows(file):
            loaded.rows += 1
            for offer in _offers(where, row, offered, loaded):
                try:
                    record = parse(offer, file.name.split(".")[0])
                except RowProblem as problem:
                    loaded.refuse(where, row, problem)
                    continue
                cleaned = clean(record)
                loaded.nul += cleaned != record
                placed.append((where, cleaned))
    return placed


def _offers(where: str, row: Any, offered: Callable[[Any], Iterable[Any]], loaded: Loaded) -> list[Any]:
    """The plain rows of a row, counted."""
    try:
        rows = [*offered(row)]
    except RowProblem as problem:
        loaded.read += 1
        loaded.refuse(where, row, problem)
        return []
    loaded.read += len(rows)
    return rows


def label_numbers(file: Path, columns: Columns) -> dict[str, Numbers]:
    """What numbers mean as labels in a file, by the marks of the answers that they choose between.

    Raises:
        UserError: there are two ways to read them.
    """
    seen: dict[str, set[int]] = {}
    asked = ""
    for index, (_, row) in enumerate(read_rows(file)):
        if index >= _PEEK and not seen:
            break
        try:
            row = columns.apply(row)
        except RowProblem:
            continue
        pair = labelled(row) if isinstance(row, dict) else None
        number = None if pair is None else pair.number(row)
        if pair is not None and number is not None:
            asked = asked or pair.name
            seen.setdefault(pair.marks, set()).add(number)
    means = {marks: meaning(marks, numbers) for marks, numbers in seen.items()}
    for marks, numbers in seen.items():
        if means[marks] is None:
            shown = ", ".join(map(str, sorted(numbers)[:8]))
            raise UserError(
                f"{file}: the labels are the numbers {shown} (of {asked}), which do not say which answer is "
                "better; name the value that prefers each in prepare.columns: a_wins and b_wins"
            )
    return {marks: numbers for marks, numbers in means.items() if numbers is not None}


def none_left(paths: str | Path | Sequence[str | Path], loaded: Loaded, what: str) -> UserError:
    """What to raise when no row is what it should be, with the reasons."""
    counts = ", ".join(f"{reason} {count}" for reason, count in loaded.drops.most_common())
    names = ", ".join(map(str, _listed(paths)))
    why = f": {loaded.refused}" if loaded.refused else ""
    return UserError(f"{names}: none of the {loaded.read} rows is {what} ({counts}){why}")


def _listed(paths: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [paths] if isinstance(paths, (str, Path)) else list(paths)


def _keep_distinct(placed: Sequence[tuple[str, PreferencePair]], loaded: LoadedPairs) -> None:
    """Move pairs into `loaded`, without copies, and without any that the data itself contradicts."""
    contents = []
    for _, pair in placed:
        prompt, chosen, rejected = keyed(pair.prompt), same_key(pair.chosen), same_key(pair.rejected)
        contents.append((content_id(prompt, chosen, rejected), content_id(prompt, rejected, chosen)))
    present = {content for content, _ in contents}
    seen: set[str] = set()
    for (where, pair), (content, mirror) in zip(placed, contents, strict=True):
        if mirror in present:
            loaded.drop("contradiction", where, pair.id)
        elif content in seen:
            loaded.drop("duplicate", where, pair.id)
        else:
            seen.add(content)
            loaded.pairs.append(pair)
    loaded.pairs = with_own_ids(
        loaded.pairs, lambda pair: content_id(pair.prompt, pair.chosen, pair.rejected)
    )


def with_own_ids(records: Sequence[T], content: Callable[[T], str]) -> list[T]:
    """The records; an id that several share gives way to `content`: files may number prompts, not pairs."""
    shared = {name for name, count in Counter(record.id for record in records).items() if count > 1}
    return [record if record.id not in shared else replace(record, id=content(record)) for record in records]

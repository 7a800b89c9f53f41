# SPDX-License-Identifier: Apache-2.0
"""Reads preference pairs from files and validates them; drops are counted by reason.

`reasongrm_nemo.data.forms` lists the known forms of rows; `prepare.columns` maps any other. Other fields are
ignored. Duplicates and contradictions are found by `reasongrm_nemo.data.sameness`. NUL becomes U+FFFD, and
text that is too long or not Unicode is refused; control tokens, verdicts and ends of reasoning in the text
are neutralized later, when the prompt is built (`reasongrm_nemo.judge.sanitize`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

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
"""If the first so many rows of a file have no numeric label, the file is assumed to have none."""


class Dropped(Record, frozen=True):
    """A dropped pair: why, its place ("file:line", if known), and its id if it had one."""

    reason: str
    where: str | None = None
    id: str | None = None
    detail: str | None = None


@dataclass
class Loaded:
    """Counts of what was read and dropped."""

    rows: int = 0
    read: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    dropped: list[Dropped] = field(default_factory=list)
    nul: int = 0
    """Number of kept records in which NUL became U+FFFD."""
    refused: str = ""
    """The message about the first dropped row."""

    @property
    def examples(self) -> dict[str, list[str]]:
        """The first few places for each reason."""
        examples: dict[str, list[str]] = {}
        for drop in self.dropped:
            places = examples.setdefault(drop.reason, [])
            if len(places) < EXAMPLES_KEPT and drop.where:
                places.append(drop.where)
        return examples

    def drop(self, reason: str, where: str, pair_id: str | None = None, detail: str | None = None) -> None:
        """Count one dropped record under a reason."""
        self.drops[reason] += 1
        self.dropped.append(Dropped(reason, where, pair_id, detail))

    def refuse(self, where: str, row: Any, problem: RowProblem) -> None:
        """Count one refused row, or one refused pair of a row."""
        self.refused = self.refused or refusal(where, row, problem)
        unknown = problem.reason == "unknown_form" and isinstance(row, dict)
        self.drop(problem.reason, where, detail=fields_of(row) if unknown else problem.detail)


@dataclass
class LoadedPairs(Loaded):
    """Pairs and drops: `read` = `len(pairs)` + all `drops`.

    A row of RM-Bench or of RMB's best-of-N holds several pairs; `read` counts pairs, `rows` counts rows.
    """

    pairs: list[PreferencePair] = field(default_factory=list)
    forms: Counter[str] = field(default_factory=Counter)
    """Number of rows by the fields read from them."""
    unread: set[str] = field(default_factory=set)
    """Some fields of these rows that were not read."""


def read_pairs(
    paths: str | Path | Sequence[str | Path],
    max_chars: int = MAX_CHARS,
    columns: Mapping[str, Any] | None = None,
) -> LoadedPairs:
    """All valid, distinct pairs of files or folders, in file order, with unique ids.

    Args:
        paths: `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv` (each also `.gz` or `.zst`), `.parquet`, or
            folders of such files.
        max_chars: limit on the total characters of a pair's texts.
        columns: `prepare.columns`.

    Raises:
        UserError: a file is missing, empty or unreadable, its labels are ambiguous, a field of `columns` is
            in no row, or no valid pair is left.
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
    """Every valid record of files or folders with its place ("file:line"), in file order.

    Args:
        paths: as for `read_pairs`.
        loaded: receives the counts.
        opened: for a file, returns the function from a row to its plain rows.
        parse: makes a record of a plain row and the file's name; raises `RowProblem`.
        clean: removes NUL from a record; returns an equal record if there is none.
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
    """The plain rows of a row; counts them."""
    try:
        rows = [*offered(row)]
    except RowProblem as problem:
        loaded.read += 1
        loaded.refuse(where, row, problem)
        return []
    loaded.read += len(rows)
    return rows


def label_numbers(file: Path, columns: Columns) -> dict[str, Numbers]:
    """The meaning of numeric labels in a file, by the answers' marks.

    Raises:
        UserError: the numbers are ambiguous.
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
    """The error for files without any valid record, with the reasons."""
    counts = ", ".join(f"{reason} {count}" for reason, count in loaded.drops.most_common())
    names = ", ".join(map(str, _listed(paths)))
    why = f": {loaded.refused}" if loaded.refused else ""
    return UserError(f"{names}: none of the {loaded.read} rows is {what} ({counts}){why}")


def _listed(paths: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [paths] if isinstance(paths, (str, Path)) else list(paths)


def _keep_distinct(placed: Sequence[tuple[str, PreferencePair]], loaded: LoadedPairs) -> None:
    """Move pairs into `loaded`, without duplicates and contradictory pairs."""
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
    """The records; ids that several share, as files may number prompts, are replaced by `content`."""
    shared = {name for name, count in Counter(record.id for record in records).items() if count > 1}
    return [record if record.id not in shared else replace(record, id=content(record)) for record in records]

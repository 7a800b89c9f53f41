# SPDX-License-Identifier: Apache-2.0
"""Preference pairs from files, validated; what is left out is counted under a named reason.

`reasongrm_nemo.data.forms` lists the forms a row may have.  Other fields of a row are ignored.  Text is data:
what could pass for a control token, a verdict or the end of the reasoning is broken up where the prompt is
built (`reasongrm_nemo.judge.sanitize`), not here; here NUL becomes U+FFFD, and what is no Unicode or too long
is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from reasongrm_nemo.data.base_record import Record
from reasongrm_nemo.data.forms import plain_rows
from reasongrm_nemo.data.records import Message, PreferencePair, QuestionAnswer
from reasongrm_nemo.data.rows import BrokenRow, find_files, read_rows
from reasongrm_nemo.errors import UserError

T = TypeVar("T", PreferencePair, QuestionAnswer)

ROLES = ("system", "user", "assistant", "tool")
EXAMPLES_KEPT = 3
MAX_CHARS = 1_000_000
"""Characters that a pair's texts may have together, unless the caller says otherwise."""
_MAX_NAME = 200

DROP_REASONS = {
    "broken_line": "the line is not JSON",
    "wrong_type": "not an object, a field is missing, or one is of the wrong type",
    "unknown_role": f"a turn's role is none of {', '.join(ROLES)}",
    "bad_text": "a text holds half a surrogate pair, which is no Unicode",
    "huge_text": "the texts are longer than prepare.max_chars",
    "empty_prompt": "the shared turns hold no user turn with text",
    "no_assistant_turn": "an answer is not a single turn of the assistant",
    "no_shared_prompt": "chosen and rejected do not begin with the same turns",
    "early_fork": "the conversations part before their last turn",
    "empty_answer": "an answer has no text",
    "identical_answers": "both answers are the same",
    "duplicate": "the pair or question was there before",
    "contradiction": "the pair is there with both preferences; all its copies are left out",
    "no_reference": "the reference holds no single final answer",
    "other_reference": "the question is there with another reference; all its copies are left out",
}
"""Every reason a row is dropped for, in words."""


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

    @property
    def examples(self) -> dict[str, list[str]]:
        """The first few places by reason."""
        found: dict[str, list[str]] = {}
        for each in self.dropped:
            places = found.setdefault(each.reason, [])
            if len(places) < EXAMPLES_KEPT and each.where:
                places.append(each.where)
        return found

    def drop(self, reason: str, where: str, pair_id: str | None = None) -> None:
        """Count one record under a reason."""
        self.drops[reason] += 1
        self.dropped.append(Dropped(reason, where, pair_id))


@dataclass
class LoadedPairs(Loaded):
    """Pairs and the account of what was left out: `read` = `len(pairs)` + all `drops`.

    A row of RM-Bench or of RMB's best-of-N offers several pairs, and `read` counts each; `rows` counts rows.
    """

    pairs: list[PreferencePair] = field(default_factory=list)


class RowProblem(Exception):
    """A row that makes no pair; `reason` is a key of `DROP_REASONS`."""

    def __init__(self, reason: str) -> None:
        super().__init__(DROP_REASONS[reason])
        self.reason = reason


def read_pairs(paths: str | Path | Sequence[str | Path], max_chars: int = MAX_CHARS) -> LoadedPairs:
    """All valid, distinct pairs of files or folders, in the order they stand, each with an id of its own.

    Args:
        paths: `.jsonl`, `.ndjson`, `.json` (each also `.gz` or `.zst`), `.parquet`, or folders of such files.
        max_chars: a pair whose texts have more characters together is refused.

    Raises:
        UserError: a file is missing, empty or not readable as its kind, or no valid pair is left.
    """
    loaded = LoadedPairs()
    found = gather(
        paths, loaded, plain_rows, lambda row, source: pair_from_row(row, source, max_chars), without_nul
    )
    _keep_distinct(found, loaded)
    if not loaded.pairs:
        raise none_left(paths, loaded, "a preference pair")
    return loaded


def gather(
    paths: str | Path | Sequence[str | Path],
    loaded: Loaded,
    offered: Callable[[Any], Iterable[Any]],
    parse: Callable[[Any, str], T],
    clean: Callable[[T], T],
) -> list[tuple[str, T]]:
    """Every sound record of files or folders with its place ("file:line"), in the order they stand.

    Args:
        paths: as for `read_pairs`.
        loaded: gets the account.
        offered: the plain rows that a row offers.
        parse: a plain row and the file's name as a record; raises `RowProblem`.
        clean: the record without NUL; itself, or an equal one, where there is none.
    """
    found = []
    for file in [file for path in _listed(paths) for file in find_files(path)]:
        for where, row in read_rows(file):
            loaded.rows += 1
            for plain in offered(row):
                loaded.read += 1
                try:
                    record = parse(plain, file.name.split(".")[0])
                except RowProblem as problem:
                    loaded.drop(problem.reason, where)
                    continue
                cleaned = clean(record)
                loaded.nul += cleaned != record
                found.append((where, cleaned))
    return found


def none_left(paths: str | Path | Sequence[str | Path], loaded: Loaded, what: str) -> UserError:
    """What to raise when no row is what it should be, with the reasons."""
    counts = ", ".join(f"{reason} {count}" for reason, count in loaded.drops.most_common())
    names = ", ".join(map(str, _listed(paths)))
    return UserError(f"{names}: none of the {loaded.read} rows is {what} ({counts})")


def _listed(paths: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [paths] if isinstance(paths, (str, Path)) else list(paths)


def pair_from_row(
    row: Any, default_source: str = "unknown", max_chars: int = MAX_CHARS, tolerate: Collection[str] = ()
) -> PreferencePair:
    """One plain row, or one of the paper's source, as a pair; its id is the row's or the content's hash.

    Args:
        row: of the form above.
        default_source: where the row names none.
        max_chars: of the pair's texts together.
        tolerate: reasons not to refuse for, of `empty_answer` and `identical_answers`: a benchmark's items
            count as they are.

    Raises:
        RowProblem: with the reason.
    """
    if isinstance(row, BrokenRow):
        raise RowProblem("broken_line")
    if not isinstance(row, dict) or "chosen" not in row or "rejected" not in row:
        raise RowProblem("wrong_type")
    if isinstance(row["chosen"], list):
        prompt, chosen, rejected = _split_conversations(turns_of(row["chosen"]), turns_of(row["rejected"]))
    else:
        shared, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
        if not isinstance(chosen, str) or not isinstance(rejected, str):
            raise RowProblem("wrong_type")
        prompt = [{"role": "user", "content": shared}] if isinstance(shared, str) else turns_of(shared)
    texts = (chosen, rejected, *(turn["content"] for turn in prompt))
    if sum(map(len, texts)) > max_chars:
        raise RowProblem("huge_text")
    if not any(turn["role"] == "user" and turn["content"].strip() for turn in prompt):
        raise RowProblem("empty_prompt")
    if prompt[-1]["role"] == "assistant":
        raise RowProblem("no_assistant_turn")
    if "empty_answer" not in tolerate and not (chosen.strip() and rejected.strip()):
        raise RowProblem("empty_answer")
    if "identical_answers" not in tolerate and chosen.strip() == rejected.strip():
        raise RowProblem("identical_answers")
    try:
        for text in texts:
            text.encode("utf-8")
    except UnicodeEncodeError:
        raise RowProblem("bad_text") from None
    return PreferencePair(
        id=name_of(row.get("id")) or content_id(prompt, chosen, rejected),
        source=name_of(row.get("source")) or name_of(row.get("subset")) or default_source,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
    )


def name_of(value: Any) -> str | None:
    """An id or source that can stand in a log and in a file; anything else is as good as none."""
    return value if isinstance(value, str) and value.isprintable() and 0 < len(value) <= _MAX_NAME else None


def without_nul(pair: PreferencePair) -> PreferencePair:
    """The pair with U+FFFD for every NUL; itself where there is none."""
    texts = (pair.chosen, pair.rejected, *(turn["content"] for turn in pair.prompt))
    if not any("\0" in text for text in texts):
        return pair
    prompt = [{"role": turn["role"], "content": no_nul(turn["content"])} for turn in pair.prompt]
    return replace(pair, prompt=prompt, chosen=no_nul(pair.chosen), rejected=no_nul(pair.rejected))


def no_nul(text: str) -> str:
    """The text with U+FFFD for NUL."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def content_id(prompt: Sequence[Message], *texts: str) -> str:
    """16 hex digits that depend on the content alone."""
    parts = [[turn["role"], turn["content"]] for turn in prompt]
    return hashlib.sha256(json.dumps([parts, *texts]).encode("ascii")).hexdigest()[:16]


def turns_of(value: Any) -> list[Message]:
    """A list of `{role, content}`, checked; raises `RowProblem`."""
    if not isinstance(value, list):
        raise RowProblem("wrong_type")
    turns = []
    for turn in value:
        if not isinstance(turn, dict):
            raise RowProblem("wrong_type")
        role, content = turn.get("role"), turn.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise RowProblem("wrong_type")
        if role not in ROLES:
            raise RowProblem("unknown_role")
        turns.append({"role": role, "content": content})
    return turns


def _split_conversations(chosen: list[Message], rejected: list[Message]) -> tuple[list[Message], str, str]:
    """The shared beginning and the two answers of whole conversations."""
    for turns in (chosen, rejected):
        if not turns or turns[-1]["role"] != "assistant":
            raise RowProblem("no_assistant_turn")
    if chosen == rejected:
        raise RowProblem("identical_answers")
    prompt = chosen[:-1]
    if prompt != rejected[:-1]:
        forked = bool(prompt) and chosen[0] == rejected[0]
        raise RowProblem("early_fork" if forked else "no_shared_prompt")
    if not prompt:
        raise RowProblem("no_shared_prompt")
    return prompt, chosen[-1]["content"], rejected[-1]["content"]


def _keep_distinct(found: Sequence[tuple[str, PreferencePair]], loaded: LoadedPairs) -> None:
    """Move pairs into `loaded`, without copies, and without any that the data itself contradicts."""
    contents = []
    for _, pair in found:
        chosen, rejected = pair.chosen.strip(), pair.rejected.strip()
        mirror = content_id(pair.prompt, rejected, chosen)
        contents.append((content_id(pair.prompt, chosen, rejected), mirror))
    present = {content for content, _ in contents}
    seen: set[str] = set()
    for (where, pair), (content, mirror) in zip(found, contents, strict=True):
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

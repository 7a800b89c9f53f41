# SPDX-License-Identifier: Apache-2.0
"""A benchmark's items, the count of those left out, and helpers shared by all benchmarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from reasongrm_nemo.data.pairs import MAX_CHARS
from reasongrm_nemo.data.problems import DROP_REASONS
from reasongrm_nemo.data.records import PreferencePair
from reasongrm_nemo.data.sources import Dropped
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation.policies import nearest

REASONS = DROP_REASONS | {
    "wrong_form": "the row is not an item of this benchmark",
    "repeated": "the item is there twice, the same both times",
    "huge_text": f"the texts are longer than {MAX_CHARS} characters",
}
"""Reason -> words for every reason to leave out an item."""


@dataclass(frozen=True)
class Item:
    """One item: its pairs by cell (`None` if the item is a single pair)."""

    benchmark: str
    subset: str
    item_id: str
    pairs: dict[str | None, PreferencePair]

    @property
    def key(self) -> str:
        """A name that is unique over all benchmarks."""
        return f"{self.benchmark}/{self.subset}/{self.item_id}"


@dataclass
class LoadedItems:
    """Items in file order, and the count of those left out: `read` = items + all `drops`."""

    benchmark: str
    items: list[Item] = field(default_factory=list)
    read: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    dropped: list[Dropped] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    unread_files: list[Path] = field(default_factory=list)
    """Files of the folder that are not the benchmark's, or repeat others."""

    def drop(self, reason: str, where: str, item: str | None = None) -> None:
        """Count one dropped item under a reason."""
        self.drops[reason] += 1
        self.dropped.append(Dropped(reason, where, item))


class WrongForm(Exception):
    """A row is not an item of the benchmark."""


def known_subset(name: str, known: Collection[str], benchmark: str, where: str) -> str:
    """The name, if the benchmark has this subset; UserError otherwise."""
    if name not in known:
        raise UserError(f"{where}: {benchmark} has no subset '{name[:80]}'{nearest(name, known)}")
    return name


def stem(file: Path) -> str:
    """A file's name up to its first dot."""
    return file.name.split(".")[0]

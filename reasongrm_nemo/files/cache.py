# SPDX-License-Identifier: Apache-2.0
"""Texts kept in the user's cache between commands."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import LIMIT, read_text


def remembered(kind: str, key: str) -> str | None:
    """The text that `remember` stored under a key, in this run or an earlier one; None if there is none."""
    with suppress(UserError, RuntimeError):
        return read_text(_memory(kind) / key, LIMIT) or None
    return None


def remember(kind: str, key: str, text: str) -> None:
    """Store a text in the user's cache; ignored if the cache cannot be written.

    Args:
        kind: a folder of the cache.
        key: a hash of everything that the text depends on.
        text: not empty.
    """
    with suppress(OSError, RuntimeError):
        folder = _memory(kind)
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f"{key}.{os.getpid()}"
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, folder / key)


def _memory(kind: str) -> Path:
    if given := os.environ.get("REASONGRM_CACHE"):  # launch/common.sh makes XDG_CACHE_HOME private to the job
        return Path(given) / kind
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "reasongrm" / kind

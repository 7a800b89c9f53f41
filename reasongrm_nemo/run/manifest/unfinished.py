# SPDX-License-Identifier: Apache-2.0
"""Finished files of an unfinished stage: recorded in stage.json, and compared when the stage resumes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.writes import write_json
from reasongrm_nemo.run.manifest.hashes import HashCache
from reasongrm_nemo.run.manifest.record import STATE, read_state


def note_whole(work: Path, *paths: Path) -> None:
    """Record files of a partial artefact that will not change any more.

    Without a stage.json the stage cannot be resumed, so nothing is recorded.
    """
    note = work / STATE
    if not note.is_file():
        return
    state, cache = read_state(note), HashCache()
    hashes = {path.relative_to(work).as_posix(): cache.file(path) for path in paths}
    write_json(note, state | {"whole": state.get("whole", {}) | hashes})


def check_whole(work: Path, state: Mapping[str, Any]) -> None:
    """Compare the files of a partial artefact with its stage.json; a missing one is made again.

    Raises:
        UserError: a file differs; the message names the first one.
    """
    cache = HashCache()
    for name, due in state.get("whole", {}).items():
        path = work / name
        if path.exists() and cache.file(path)["sha256"] != due["sha256"]:
            raise UserError(
                f"{path} has changed since the interrupted run wrote it (SHA-256 differs from stage.json); "
                "restore the file, or remove it to have it made again"
            )

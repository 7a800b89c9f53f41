# SPDX-License-Identifier: Apache-2.0
"""Files that an unfinished stage has made whole: recorded in its stage.json, compared when it is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.writes import write_json
from reasongrm_nemo.run.manifest.hashes import HashCache
from reasongrm_nemo.run.manifest.record import STATE, read_state


def note_whole(work: Path, *paths: Path) -> None:
    """Record files of a partial artefact that will not be written any more.

    Without a stage.json there is nothing to be resumed, and nothing to record.
    """
    note = work / STATE
    if not note.is_file():
        return
    state, cache = read_state(note), HashCache()
    hashes = {path.relative_to(work).as_posix(): cache.file(path) for path in paths}
    write_json(note, state | {"whole": state.get("whole", {}) | hashes})


def check_whole(work: Path, state: Mapping[str, Any]) -> None:
    """Hold the files of a partial artefact against its stage.json; one that is gone is made again.

    Raises:
        UserError: naming the first that differs.
    """
    cache = HashCache()
    for name, due in state.get("whole", {}).items():
        path = work / name
        if path.exists() and cache.file(path)["sha256"] != due["sha256"]:
            raise UserError(
                f"{path} is not what the interrupted run wrote (its SHA-256 differs from stage.json); "
                "restore it, or remove it to have it made again"
            )

# SPDX-License-Identifier: Apache-2.0
"""Files held against the manifest of the artefact that they are in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import read_json
from reasongrm_nemo.files.refusals import shown
from reasongrm_nemo.files.shapes import object_at
from reasongrm_nemo.run.manifest.hashes import HashCache
from reasongrm_nemo.run.manifest.record import NAME, read_manifest

BESIDE = (NAME, "stage.log")
"""Files of an artefact that its manifest does not list."""
MISSING, CHANGED, UNKNOWN = "missing", "changed", "unknown"
_WHY = {
    MISSING: "is missing",
    CHANGED: "is not the file that {maker} made (its size or SHA-256 differs from the manifest)",
    UNKNOWN: "was added after {maker} was made (its manifest does not list the file)",
}
_WHAT_TO_DO = {
    MISSING: "restore it, or run stage {maker} again",
    CHANGED: "restore it, or run stage {maker} again",
    UNKNOWN: "remove it",
}


@dataclass(frozen=True)
class Difference:
    """One file that is not as the manifest says: its name in the artefact, and which of the three it is."""

    name: str
    kind: str


def differences(
    outputs: Mapping[str, Mapping[str, Any]], files: Mapping[str, Mapping[str, Any]]
) -> list[Difference]:
    """How files differ from those that a manifest lists, by name.

    A file listed without a hash, as manifests of earlier versions do for checkpoints, is held against its
    size alone. Hidden files that are not listed are passed over: nothing loads them.
    """

    def kind(name: str) -> str | None:
        if name not in files:
            return MISSING
        if name not in outputs:
            return None if Path(name).name.startswith(".") or name in BESIDE else UNKNOWN
        due, there = outputs[name], files[name]
        same = due["size"] == there["size"] and due.get("sha256", there["sha256"]) == there["sha256"]
        return None if same else CHANGED

    found = ((name, kind(name)) for name in sorted({*outputs, *files}))
    return [Difference(name, what) for name, what in found if what is not None]


def check_made(path: Path, files: Mapping[str, Mapping[str, Any]], key: str) -> None:
    """Hold an input that is an artefact, or inside one, against the manifest; any other passes.

    Args:
        path: the input, a file or a folder.
        files: `HashCache.tree` of it.
        key: the recipe's, for the message.

    Raises:
        UserError: naming the first file that differs, and what to do.
    """
    place = Path(os.path.abspath(path))
    folder = _maker(place)
    if folder is None:
        return
    manifest = read_manifest(folder / NAME)
    inside = "" if place == folder else place.relative_to(folder).as_posix()
    prefix = f"{inside}/" if inside else ""
    named = {inside if name == "." else prefix + name: entry for name, entry in files.items()}
    due = {
        name: entry
        for name, entry in manifest["outputs"].items()
        if name == inside or name.startswith(prefix)
    }
    wrong = differences(due, named)
    if wrong:
        maker = manifest["name"]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise UserError(
            f"{key}: {folder / shown(wrong[0].name)}{more} {_WHY[wrong[0].kind].format(maker=maker)}; "
            f"{_WHAT_TO_DO[wrong[0].kind].format(maker=maker)}"
        )


def check_path(path: Path, key: str, cache: HashCache | None = None) -> None:
    """`check_made` of a path that a command was given; what is in no artefact is not read for it."""
    if path.exists() and _maker(Path(os.path.abspath(path))) is not None:
        check_made(path, (cache or HashCache()).tree(path), key)


def _maker(place: Path) -> Path | None:
    """The artefact that a path is in: the nearest folder above it that a stage has finished."""
    for folder in (place, *place.parents):
        if (folder / BESIDE[1]).is_file():  # also where the manifest is gone; an unfinished one has none yet
            return None if folder.parent.name == ".partial" else folder
        if (folder / NAME).is_file():
            return folder if _is_ours(folder) else None
    return None


def _is_ours(folder: Path) -> bool:
    """Whether a manifest.json is an artefact's; other programs write such files too."""
    try:
        found = read_json(folder / NAME)
    except UserError:
        return False
    return {"stage", "outputs"} <= object_at(found).keys()


def verify(folder: Path, manifest: Mapping[str, Any]) -> dict[str, list[str]]:
    """Every file of an artefact, each byte read: the names that are missing, changed, unknown.

    Further ``unhashed``: those whose size alone could be compared, and ``same``.
    """
    files = HashCache(recall=False).tree(folder)
    listed: dict[str, list[str]] = {MISSING: [], CHANGED: [], UNKNOWN: [], "unhashed": [], "same": []}
    for each in differences(manifest["outputs"], files):
        listed[each.kind].append(each.name)
    wrong = {*listed[MISSING], *listed[CHANGED]}
    for name, entry in manifest["outputs"].items():
        if name not in wrong:
            listed["same" if "sha256" in entry else "unhashed"].append(name)
    return listed


def report(found: Mapping[str, list[str]]) -> Iterator[str]:
    """`verify`'s answer in lines."""
    for kind in (MISSING, CHANGED, UNKNOWN):
        for name in found[kind]:
            yield f"  {kind:<9} {shown(name)}"
    unhashed = len(found["unhashed"])
    beside = f", {unhashed} more have their size alone recorded" if unhashed else ""
    yield f"  {len(found['same'])} files are as they were made{beside}"

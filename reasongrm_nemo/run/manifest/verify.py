# SPDX-License-Identifier: Apache-2.0
"""Compares files with what was recorded when they were made: in a manifest, or in a conversion's note."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import read_json
from reasongrm_nemo.files.refusals import shown
from reasongrm_nemo.files.shapes import object_at
from reasongrm_nemo.run.manifest.hashes import HashCache, entries
from reasongrm_nemo.run.manifest.record import CONVERSION, NAME, read_conversion, read_manifest

_LOG = "stage.log"
BESIDE = (NAME, _LOG)
"""Files of an artefact that the manifest does not list."""
MISSING, CHANGED, UNKNOWN = "missing", "changed", "unknown"
_WHY = {
    MISSING: "is missing",
    CHANGED: "is not the file that {maker} wrote (its size or SHA-256 differs from the manifest)",
    UNKNOWN: "was added after {maker} had finished (the manifest does not list the file)",
}
_CONVERTED = "is not the file that the conversion wrote (its size or SHA-256 differs from the note beside it)"

_Files = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Difference:
    """A file that differs from the manifest: its name, and whether it is missing, changed or unknown."""

    name: str
    kind: str


def differences(outputs: _Files, files: _Files, odd: Collection[str] = ()) -> list[Difference]:
    """How files differ from those that a manifest lists, by name.

    A file listed without a hash, as for checkpoints in manifests of earlier versions, is compared by size
    alone. Hidden files that are not listed are ignored: nothing loads them.

    Args:
        outputs: the files listed by the manifest.
        files: the existing files, see `HashCache.tree`.
        odd: existing names that are not regular files, see `odd_names`.
    """

    def kind(name: str) -> str | None:
        if name not in outputs:
            return None if _ignored(name) else UNKNOWN
        if name not in files:
            return CHANGED if name in odd else MISSING
        due, there = outputs[name], files[name]
        same = due["size"] == there["size"] and due.get("sha256", there["sha256"]) == there["sha256"]
        return None if same else CHANGED

    kinds = ((name, kind(name)) for name in sorted({*outputs, *files, *odd}))
    return [Difference(name, what) for name, what in kinds if what is not None]


def _ignored(name: str) -> bool:
    return Path(name).name.startswith(".") or name in BESIDE


def odd_names(path: Path) -> list[str]:
    """Everything below a folder that is neither a file nor a folder: pipes, sockets, broken links."""
    return [str(entry.relative_to(path)) for entry in entries(path) if not entry.is_file()]


def check_made(path: Path, files: _Files, key: str) -> _Files:
    """Compare an input with what was recorded, if it is (in) an artefact or a converted folder.

    Both the given path and the path that its links resolve to are looked up. In a folder that belongs to no
    artefact, the files that are links into one are compared.

    Args:
        path: the input, a file or a folder.
        files: the input's `HashCache.tree`.
        key: the recipe key, for the message.

    Returns:
        The files that count as the input: without hidden ones that were added to an artefact later.

    Raises:
        UserError: a file differs; the message names the first one, and what to do.
    """
    if (place := _in_record(path)) is not None:
        return _hold(place, files, odd_names(path), key)
    for name, entry in files.items():
        if (path / name).is_symlink() and (place := _in_record(path / name)) is not None:
            _hold(place, {".": entry}, (), key)
    return files


def check_path(path: Path, key: str, cache: HashCache | None = None) -> None:
    """`check_made` for a path given to a command; files without a record are not read."""
    cache = cache or HashCache()
    if path.exists() and _in_record(path) is not None:
        check_made(path, cache.tree(path), key)
        return
    for entry in entries(path):
        if entry.is_symlink() and entry.is_file() and _in_record(entry) is not None:
            check_made(entry, cache.tree(entry), key)


def _hold(place: Path, files: _Files, odd: Collection[str], key: str) -> _Files:
    folder = _maker(place)
    assert folder is not None
    inside = "" if place == folder else place.relative_to(folder).as_posix()
    prefix = f"{inside}/" if inside else ""
    converted = not _is_artefact(folder)
    if not converted and not os.path.lexists(folder / NAME):
        raise UserError(
            f"{key}: {folder / NAME} does not exist, so the folder's files cannot be verified; restore the "
            "manifest, or move the folder away and run its stage again"
        )
    manifest = {} if converted else read_manifest(folder / NAME)
    listed = read_conversion(folder / CONVERSION)["files"] if converted else manifest["outputs"]
    wrong = differences(
        {name: entry for name, entry in listed.items() if name == inside or name.startswith(prefix)},
        {inside if name == "." else prefix + name: entry for name, entry in files.items()},
        [prefix + name for name in odd],
    )
    if converted:  # users may add files to a converted folder
        wrong = [difference for difference in wrong if difference.kind != UNKNOWN]
    if wrong:
        maker = manifest.get("name", "")
        kind = wrong[0].kind
        why = _CONVERTED if converted and kind == CHANGED else _WHY[kind].format(maker=maker)
        again = "convert again" if converted else f"run stage {maker} again"
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise UserError(
            f"{key}: {folder / shown(wrong[0].name)}{more} {why}; "
            + ("remove it" if kind == UNKNOWN else f"restore it, or {again}")
        )
    return {
        name: entry
        for name, entry in files.items()
        if converted or prefix + name in listed or name == "." or prefix + name in BESIDE
    }


def _in_record(path: Path) -> Path | None:
    """The path, as given or resolved, that is in an artefact or a converted folder; None if neither is."""
    places = dict.fromkeys((os.path.abspath(path), os.path.realpath(path)))
    return next((Path(place) for place in places if _maker(Path(place)) is not None), None)


def _maker(place: Path) -> Path | None:
    """The artefact or converted folder that a path is in: the nearest finished folder above the path."""
    for folder in (place, *place.parents):
        if (folder / CONVERSION).is_file() and _is_converted(folder):
            return folder
        if (folder / _LOG).is_file():  # true even if the manifest is lost; a partial artefact has none yet
            return None if folder.parent.name == ".partial" else folder
        if (folder / NAME).is_file():
            return folder if _is_ours(folder) else None
    return None


def _is_artefact(folder: Path) -> bool:
    return (folder / _LOG).is_file() or (folder / NAME).is_file()


def _is_converted(folder: Path) -> bool:
    """Whether the folder's conversion.json is ours and lists the files."""
    try:
        return "files" in read_conversion(folder / CONVERSION)
    except UserError:
        if (folder / "config.json").is_file():
            raise
        return False  # written by another program


def _is_ours(folder: Path) -> bool:
    """Whether the folder's manifest.json is ours; other programs write files of this name too."""
    try:
        manifest = read_json(folder / NAME)
    except UserError:
        return False
    return {"stage", "outputs"} <= object_at(manifest).keys()


def verify_files(folder: Path, manifest: Mapping[str, Any]) -> dict[str, list[str]]:
    """Hash every file of an artefact: the names that are missing, changed or unknown.

    Also ``unhashed``, the files whose size alone could be compared, and ``same``.
    """
    files = HashCache(recall=False).tree(folder)
    listed: dict[str, list[str]] = {MISSING: [], CHANGED: [], UNKNOWN: [], "unhashed": [], "same": []}
    for difference in differences(manifest["outputs"], files, odd_names(folder)):
        listed[difference.kind].append(difference.name)
    wrong = {*listed[MISSING], *listed[CHANGED]}
    for name, entry in manifest["outputs"].items():
        if name not in wrong:
            listed["same" if "sha256" in entry else "unhashed"].append(name)
    return listed


def report(listed: Mapping[str, list[str]]) -> Iterator[str]:
    """The result of `verify_files` as lines."""
    for kind in (MISSING, CHANGED, UNKNOWN):
        for name in listed[kind]:
            yield f"  {kind:<9} {shown(name)}"
    unhashed = len(listed["unhashed"])
    beside = f", {unhashed} more were recorded by size alone" if unhashed else ""
    yield f"  {len(listed['same'])} files are unchanged{beside}"

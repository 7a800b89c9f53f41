# SPDX-License-Identifier: Apache-2.0
"""The schemas of manifest.json, stage.json and conversion.json, and the manifest's digest of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import read_json
from reasongrm_nemo.files.refusals import shown
from reasongrm_nemo.files.shapes import NUMBER, shaped

NAME = "manifest.json"
STATE = "stage.json"
CONVERSION = "conversion.json"
"""The note in a converted folder: the hash of its source, and its files."""
_LIMIT = 64 << 20  # a stage may read a folder with many thousands of files
_FILE = {"size": int, "mtime_ns?": int, "sha256?": str}
_SESSIONS = [{"start": NUMBER, "end?": NUMBER}]
_MANIFEST = {
    "name": str,
    "stage": str,
    "seed": int,
    "key": str,
    "identity": dict,
    "inputs": {...: {"value": str, "path": str, "sha256": str, "files": {...: _FILE}}},
    "outputs": {...: _FILE},
    "timings": {"seconds": NUMBER, "sessions": _SESSIONS},
    "code": {"version": str, "commit?": (str, type(None))},
    "packages": {...: str},
    "result": dict,
    "drops": {...: int},
    "recipe": dict,
    "digest?": str,
}
_WHOLE = {"size": int, "mtime_ns": int, "sha256": str}
_STATE = {"key": str, "identity": dict, "sessions": _SESSIONS, "inputs?": dict, "whole?": {...: _WHOLE}}


def read_manifest(path: Path) -> dict[str, Any]:
    """An artefact's manifest.

    Raises:
        UserError: the file cannot be read, does not fit the schema, or was changed after it was written.
    """
    manifest = shaped(read_json(path, _LIMIT), _MANIFEST, shown(str(path)))
    for name in manifest["outputs"]:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
            raise UserError(f"{path}: outputs names {shown(name)!r}, which is outside the artefact")
    if manifest.get("digest") not in (None, digest_of(manifest)):
        raise UserError(
            f"{path} was changed after it was written (its SHA-256 is no longer that of its digest); restore "
            "the file, or move the folder away so that the stage runs again"
        )
    return manifest  # type: ignore[no-any-return]


def read_state(path: Path) -> dict[str, Any]:
    """A partial artefact's stage.json; errors as ``read_manifest``."""
    return shaped(read_json(path, _LIMIT), _STATE, shown(str(path)))  # type: ignore[no-any-return]


def read_conversion(path: Path) -> dict[str, Any]:
    """A converted folder's note; earlier versions did not list its files. Errors as ``read_manifest``."""
    return shaped(read_json(path, _LIMIT), {"files?": {...: _FILE}}, shown(str(path)))  # type: ignore[no-any-return]


def digest_of(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without its digest."""
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()

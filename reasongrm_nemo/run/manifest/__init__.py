# SPDX-License-Identifier: Apache-2.0
"""An artefact's key, file hashes, manifest and life cycle."""

from reasongrm_nemo.run.manifest.artefact import Artefact
from reasongrm_nemo.run.manifest.hashes import HashCache, content_hash
from reasongrm_nemo.run.manifest.key import flatten, identity, stage_key, what_changed
from reasongrm_nemo.run.manifest.record import read_manifest
from reasongrm_nemo.run.manifest.unfinished import note_whole
from reasongrm_nemo.run.manifest.verify import check_made, check_path
from reasongrm_nemo.run.manifest.versions import PACKAGES, code_version, package_versions

__all__ = [
    "PACKAGES",
    "Artefact",
    "HashCache",
    "check_made",
    "check_path",
    "code_version",
    "content_hash",
    "flatten",
    "identity",
    "note_whole",
    "package_versions",
    "read_manifest",
    "stage_key",
    "what_changed",
]

# SPDX-License-Identifier: Apache-2.0
"""The versions of what made an artefact: this package and those that its figures may depend on."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from reasongrm_nemo import __version__

PACKAGES: tuple[str, ...] = (
    "torch",
    "numpy",
    "transformers",
    "tokenizers",
    "nemo-toolkit",
    "nemo-aligner",
    "megatron-core",
    "lightning",
    "omegaconf",
    "safetensors",
)


def code_version() -> dict[str, Any]:
    """The package's version, and the commit where it runs from a git checkout."""
    root = Path(__file__).resolve().parents[3]
    version: dict[str, Any] = {"version": __version__}
    if (root / ".git").exists():
        try:
            command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
            answer = subprocess.run(command, capture_output=True, text=True, timeout=10)
            if answer.returncode == 0:
                version["commit"] = answer.stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            version["commit"] = None  # git is not installed or does not answer; the version must do
    return version


def package_versions() -> dict[str, str]:
    """Versions of the packages that figures may depend on, those that are installed here."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions

# SPDX-License-Identifier: Apache-2.0
"""The versions recorded in an artefact: of this package and of those that affect the results."""

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
    """The package's version and, in a git checkout, the commit."""
    root = Path(__file__).resolve().parents[3]
    version: dict[str, Any] = {"version": __version__}
    if (root / ".git").exists():
        try:
            command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
            answer = subprocess.run(command, capture_output=True, text=True, timeout=10)
            if answer.returncode == 0:
                version["commit"] = answer.stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            version["commit"] = None  # git is missing or does not answer
    return version


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that affect the results."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions

# SPDX-License-Identifier: Apache-2.0
"""One artefact or one recipe as text: its manifest, its files against their hashes, its resolved keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.disk import readable_bytes
from reasongrm_nemo.processes.secret_values import masked
from reasongrm_nemo.report.summary import evaluation_lines
from reasongrm_nemo.run.console import duration
from reasongrm_nemo.run.manifest import flatten, read_manifest, verify


def resolved_recipe(recipe: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """Every dotted key of a recipe with its value and, as a comment, where it was set."""
    lines = []
    for key, value in flatten(recipe).items():
        text = f"{key}: {json.dumps(value, ensure_ascii=False)}"
        lines.append(f"{text:<58} # {origins[key]}" if key in origins else text)
    return "\n".join(lines)


def read_artefact(path: Path) -> dict[str, Any]:
    """The manifest of a finished artefact.

    Raises:
        UserError: there is no finished artefact; the message tells if it is unfinished.
    """
    if (path / "manifest.json").is_file():
        manifest = read_manifest(path / "manifest.json")
        return manifest | {"recipe": masked(manifest["recipe"])} if "recipe" in manifest else manifest
    partial = path.parent / ".partial" / path.name
    if partial.is_dir():
        raise UserError(
            f"{path} is not finished: its partial folder is {partial}; run the recipe again to resume"
        )
    if path.is_dir():
        inside = sorted(child.parent.name for child in path.glob("*/manifest.json"))
        hint = f"; it holds the artefacts {', '.join(inside)}" if inside else ""
        raise UserError(f"{path} is not an artefact: it has no manifest.json{hint}")
    if path.is_file():
        raise UserError(f"{path} is a file; give the folder of its artefact")
    raise UserError(f"{path} does not exist")


def verified(path: Path, manifest: Mapping[str, Any]) -> tuple[dict[str, list[str]], str]:
    """Verify every file of an artefact; the result as data and as text."""
    findings = verify.verify_files(path, manifest)
    return findings, "\n".join([f"{manifest['name']}  (stage {manifest['stage']})", *verify.report(findings)])


def describe_manifest(path: Path, manifest: Mapping[str, Any]) -> str:
    """A manifest as text."""
    code = manifest["code"]
    lines = [
        f"{manifest['name']}  (stage {manifest['stage']}, seed {manifest['seed']})",
        f"  made by      reasongrm-nemo {code['version']}"
        + (f", commit {code['commit']}" if code.get("commit") else ""),
        f"  took         {duration(manifest['timings']['seconds'])}"
        + (
            f" in {len(manifest['timings']['sessions'])} sessions"
            if len(manifest["timings"]["sessions"]) > 1
            else ""
        ),
        "  packages     " + ", ".join(f"{name} {version}" for name, version in manifest["packages"].items()),
    ]
    for name, item in manifest["inputs"].items():
        lines.append(f"  input        {name} = {item['value']}  sha256 {item['sha256'][:12]}")
    for name, value in manifest["result"].items():
        if not isinstance(value, (dict, list)):
            lines.append(f"  {name:<12} {value:.4g}" if isinstance(value, float) else f"  {name:<12} {value}")
    for reason, count in manifest["drops"].items():
        lines.append(f"  dropped      {count} {reason}")
    for name, entry in manifest["outputs"].items():
        digest = f"  sha256 {entry['sha256'][:12]}" if "sha256" in entry else ""
        lines.append(f"  {name}  {readable_bytes(entry['size'])}{digest}")
    if "report" in manifest["result"]:
        report = manifest["result"]["report"]
        lines += evaluation_lines(report)
    return "\n".join(lines)

# SPDX-License-Identifier: Apache-2.0
"""The command `reasongrm preflight`: prints the findings, and writes them for the batch script."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from reasongrm_nemo.processes import placement
from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.manifest import Artefact
from reasongrm_nemo.slurm.preflight import checks


def preflight(
    recipe: Path,
    overrides: Iterable[str],
    console: Console,
    quick: bool,
    off: bool,
    dry_run: bool,
    job_nodes: int | None,
    notes: Path | None,
) -> bool:
    """Run the checks; returns whether all pass.

    Args:
        recipe: the recipe's file.
        overrides: `key=value` words.
        console: prints the findings.
        quick: skip the collective.
        off: do not query the nodes.
        dry_run: print what would run where, without querying the nodes.
        job_nodes: outside a job, assume one of this many nodes.
        notes: file for shell variables: artefact, partial, runs_dir, and bad_nodes if excluding those
            nodes would help.
    """
    cfg = load_recipe(recipe, overrides)
    artefact = Artefact(Path(cfg.runs_dir), cfg.name)
    paths = {"artefact": artefact.path, "partial": artefact.work, "runs_dir": artefact.runs_dir}
    _write(notes, {name: str(path.absolute()) for name, path in paths.items()})
    environ = dict(os.environ)
    if dry_run and job_nodes and "SLURM_JOB_ID" not in environ:
        names = [f"node-{index}" for index in range(1, job_nodes + 1)]
        environ |= {"SLURM_JOB_ID": "0", "SLURM_JOB_NODELIST": ",".join(names)}
    place = placement.find(cfg, environ)
    if dry_run:
        console.line(checks.describe_placement(cfg, place))
        console.line(f"artefact {artefact.path.absolute()}")
        return True
    if off:
        return True
    findings = checks.run(cfg, place, quick)
    for line in findings.good:
        console.line(f"pre-flight: {line}")
    for line in findings.problems:
        console.line(f"pre-flight: FIX {line}")
    nodes = {*place.trainer_nodes, *(spot.node for spot in place.spots)}
    bad = sorted(set(findings.bad))
    if bad and len(bad) < len(nodes):
        _write(notes, {"bad_nodes": ",".join(bad)})
    return not findings.problems


def _write(notes: Path | None, values: dict[str, str]) -> None:
    if notes is not None:
        with notes.open("a", encoding="utf-8") as out:
            out.writelines(f"{name}={shlex.quote(value)}\n" for name, value in values.items())

# SPDX-License-Identifier: Apache-2.0
"""Faults of files, disk, network and environment: a stage ends as uninterrupted or says why not.

A fault is a shell prefix that runs the command (`"$@"`), or a change of the folders, the environment or
the words. After a refusal the same command without the fault must end as the uninterrupted run, unless the
fault changed what the stage is to read."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos import chain
from chaos.runs import Run, environment, one_sentence


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: unique within its kind.
        stage: the stage that meets the fault.
        shell: the script that runs `"$@"`.
        env: variables; None removes one.
        more: further words of the command.
        change: changes the runs folder before the stage.
        must: "end" as uninterrupted, be "refused", or "either": refused, or ends as uninterrupted.
        mute: the command cannot say why it ends.
        heal: undoes `change`; None: nothing is tried after a refusal.
    """

    name: str
    stage: str = "0_prepare"
    shell: str = 'exec "$@"'
    env: dict = field(default_factory=dict)
    more: tuple = ()
    change: Callable[[Path], None] = lambda runs: None
    must: str = "end"
    mute: bool = False
    heal: Callable[[Path], None] | None = None


def run(fault, folder, whole):
    """Run one fault; returns what is wrong ("" if nothing) and the output."""
    runs = chain.before(fault.stage, whole, folder / "runs")
    fault.change(runs)
    more = [word.replace("RUNS", str(runs)) for word in fault.more]
    words = chain.words(fault.stage, runs, *more)
    shell = ["/bin/sh", "-c", fault.shell.replace("RUNS", str(runs)), "sh", *words]
    env = {
        name: value for name, value in environment(**fault.env).items() if fault.env.get(name, "") is not None
    }
    first = Run(shell, {n: v.replace("RUNS", str(runs)) for n, v in env.items()})
    status, output = first.end(600)
    if orphans := first.orphans():
        return f"{len(orphans)} processes outlived it", output
    wrong = one_sentence(status, output)
    if wrong and not (fault.mute and "without a sentence" in wrong):
        return wrong, output
    if status == 0 and fault.must == "refused":
        return "not refused", output
    if status and fault.must == "end":
        return f"refused with status {status}", output
    if status and fault.heal is not None:
        fault.heal(runs)
        status, output = Run(chain.words(fault.stage, runs), environment()).end(600)
        if wrong := one_sentence(status, output) or (status and f"status {status} after the fault was gone"):
            return wrong, output
    seen = (runs / fault.stage).exists() and (runs / fault.stage / "manifest.json").is_file()
    if status == 0 and seen and fault.must != "refused":
        return chain.difference(fault.stage, whole, runs), output
    return "", output


def replaced(*parts):
    """A change that puts an empty file where a folder should be, or the reverse."""

    def change(runs):
        path = runs.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            shutil.rmtree(path)
        path.touch()

    return change


def folder_at(*parts):
    """A change that puts a stray folder at this path, with a file in it."""

    def change(runs):
        runs.joinpath(*parts).mkdir(parents=True)
        runs.joinpath(*parts, "stray").touch()

    return change


def removed(*parts):
    """A heal that removes this path."""

    def heal(runs):
        path = runs.joinpath(*parts)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    return heal


def linked(target, *parts):
    """A change that puts a link at this path."""

    def change(runs):
        path = runs.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(target, path)

    return change


def damaged(damage, *parts):
    """A change that applies a function of tests/faults.py."""
    return lambda runs: damage(runs.joinpath(*parts))

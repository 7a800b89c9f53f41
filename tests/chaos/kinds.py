# SPDX-License-Identifier: Apache-2.0
"""The cases of all kinds, in one form."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chaos import chain, fault_table, faults, hostile, kills


@dataclass(frozen=True)
class Case:
    """One thing that is tried.

    Attributes:
        kind: the row of the table it counts in.
        name: of its own.
        run: with a folder for it alone; gives what is wrong ("" if nothing) and the command's output.
        stage: up to which it needs the unbroken run.
    """

    kind: str
    name: str
    stage: str
    run: Callable[[Path], tuple[str, str]]

    @property
    def slug(self):
        """A folder's name."""
        return re.sub(r"[^A-Za-z0-9]+", "-", f"{self.kind}-{self.name}").strip("-")[:100]


def cases(work):
    """All, the longest kind first."""
    return [*_kills(work), *_faults(work), *_hostile()]


def _kills(work):
    whole = work / "unbroken"

    def seconds():
        return {
            stage: json.loads((whole / stage / "manifest.json").read_text())["timings"]["seconds"] + 2
            for stage in chain.STAGES
            if (whole / stage).exists()
        }

    for kill in kills.table():
        sign = "" if kill.survives else f", {kill.signal.name}"
        yield Case(
            "kill", f"{kill.stage}: {kill.name}{sign}", kill.stage,
            lambda folder, kill=kill: kills.run(kill, folder, whole, seconds()),
        )  # fmt: skip


def _faults(work):
    for kind, rows in fault_table.table().items():
        for fault in rows:
            name = f"{fault.stage}: {fault.name}"
            yield Case(
                kind, name, fault.stage,
                lambda folder, fault=fault: faults.run(fault, folder, work / "unbroken"),
            )  # fmt: skip


def _hostile():
    for reader, name in hostile.table():
        yield Case(
            "file", f"{reader}: {name}", hostile.STAGE,
            lambda folder, r=reader, n=name: hostile.run(r, n, folder),
        )  # fmt: skip

# SPDX-License-Identifier: Apache-2.0
"""The cases of all kinds, in a common form."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chaos import chain, fault_table, faults, hostile, kills


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        kind: the row of the table that counts the case.
        name: unique within its kind.
        run: takes a folder for this case; returns what is wrong ("" if nothing) and the command's output.
        stage: the last stage of the uninterrupted run that the case needs.
    """

    kind: str
    name: str
    stage: str
    run: Callable[[Path], tuple[str, str]]

    @property
    def slug(self):
        """The name of the case's folder."""
        return re.sub(r"[^A-Za-z0-9]+", "-", f"{self.kind}-{self.name}").strip("-")[:100]


def cases(work):
    """All cases, the slowest kind first."""
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

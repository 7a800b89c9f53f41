# SPDX-License-Identifier: Apache-2.0
"""Work orders from a stage to its trainer ranks, and the ranks' reports of failures."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.disk import disk_full
from reasongrm_nemo.files.documents import LIMIT, read_json
from reasongrm_nemo.files.figures import read_figures
from reasongrm_nemo.files.refusals import sentence
from reasongrm_nemo.files.shapes import shaped
from reasongrm_nemo.files.writes import write_json
from reasongrm_nemo.processes.child import die_with_parent
from reasongrm_nemo.processes.secret_values import strike
from reasongrm_nemo.processes.stop_requests import ask_on_signal

LOSSES = "server_losses.jsonl"
"""File in the artefact: losses of rollout servers, and failed starts that were retried."""
_SHAPE = {
    "recipe": dict,
    "work": str,
    "model": str,
    "inputs": {...: str},
    "servers": [str],
    "runs_dir": str,
}
LEFT_OUT = "left_out.json"
"""File in the artefact: input records that a training stage does not use, by reason."""


@dataclass(frozen=True)
class WorkOrder:
    """Orders for the ranks of a stage.

    Attributes:
        recipe: resolved recipe.
        work: folder of the artefact being written.
        model: Hugging Face folder with the initial weights.
        inputs: the stage's other inputs.
        servers: the rollout servers' spec files, if the stage needs servers.
        runs_dir: folder of the stop file; None: ``work``.
    """

    recipe: DictConfig
    work: Path
    model: Path
    inputs: dict[str, Path]
    servers: Sequence[Path] = ()
    runs_dir: Path | None = None

    def write(self) -> Path:
        """Write the order to the artefact and return the file."""
        path = self.work / "work_order.json"
        order = {
            "recipe": OmegaConf.to_container(self.recipe),
            "work": str(self.work.resolve()),
            "model": str(self.model.resolve()),
            "inputs": {name: str(path.resolve()) for name, path in self.inputs.items()},
            "servers": [str(path.resolve()) for path in self.servers],
            "runs_dir": str((self.runs_dir or self.work).resolve()),
        }
        write_json(path, order)
        return path

    @classmethod
    def read(cls, path: str) -> WorkOrder:
        """Read what ``write`` wrote."""
        order = shaped(read_json(Path(path)), _SHAPE, path)
        return cls(
            recipe=OmegaConf.create(order["recipe"]),
            work=Path(order["work"]),
            model=Path(order["model"]),
            inputs={name: Path(value) for name, value in order["inputs"].items()},
            servers=[Path(path) for path in order["servers"]],
            runs_dir=Path(order["runs_dir"]),
        )

    def left_out(self, name: str) -> frozenset[int]:
        """Indices of the records of input ``name`` to leave out, see ``write_left_out``."""
        path = self.work / LEFT_OUT
        left_out = (
            shaped(read_json(path, LIMIT << 4), {...: {...: [int]}}, str(path)) if path.exists() else {}
        )
        reasons = left_out.get(name, {})
        return frozenset(index for indices in reasons.values() for index in indices)


def note_loss(work: Path, cause: str) -> None:
    """Append a rollout server's loss or failed start to the artefact's list."""
    with (work / LOSSES).open("a", encoding="utf-8") as out:
        out.write(json.dumps({"time": time.time(), "cause": strike(cause)}) + "\n")


def losses(work: Path) -> list[str]:
    """The causes in the artefact's list, oldest first, without a line still being written."""
    return [loss["cause"] for _, loss in read_figures(work / LOSSES, {"cause": str})]


def write_left_out(work: Path, left_out: Mapping[str, Mapping[str, Sequence[int]]]) -> None:
    """Write the records to leave out: input's name -> reason -> indices in the file, from 0."""
    write_json(work / LEFT_OUT, left_out)


def python_environment() -> dict[str, str]:
    """This process's environment, with which a child can import this checkout from any folder."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    # without PYTHONSAFEPATH, `python -m` would first import from the current folder, which may be /tmp
    return dict(os.environ) | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def own_caches() -> dict[str, str]:
    """Move the PyTorch compiler's cache out of /tmp, where others could create the folder first."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return {"TORCHINDUCTOR_CACHE_DIR": str(Path(home) / "reasongrm" / "inductor")}


def first_rank() -> bool:
    """Whether this is the rank that writes files and talks to the rollout servers."""
    return int(os.environ.get("RANK", 0)) == 0


@contextmanager
def rank_of_the_run(order: WorkOrder) -> Iterator[None]:
    """Context of a rank's work: die with the launcher, and record the error of a failure for the stage.

    SIGUSR1, which Slurm sends to every process of a job, requests a save and stop (see ``stop_requests``).
    """
    die_with_parent(os.getppid())
    ask_on_signal(order.runs_dir or order.work, order.recipe.name)
    try:
        yield
    except BaseException as error:
        # check for a full disk now; files that fill it may be removed when this process ends
        error = disk_full(error, order.work) or error
        known = isinstance(error, UserError)
        text = str(error) if known else f"{type(error).__name__}: {error}"
        if isinstance(error, OSError) and error.filename is not None:
            text = sentence(error)
        row = {
            "rank": int(os.environ.get("RANK", 0)),
            "time": time.time(),
            "user": known,
            "error": strike(text),
        }
        # if even this row cannot be written, the stage detects the full disk itself
        with suppress(OSError), (order.work / "failures.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        with suppress(OSError):
            traceback.print_exc()
            sys.stderr.flush()
        raise SystemExit(2 if known else 1) from None

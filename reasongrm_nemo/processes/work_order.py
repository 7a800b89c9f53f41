# SPDX-License-Identifier: Apache-2.0
"""What a stage tells its trainer ranks, and how a rank tells it why it failed."""

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
"""In the artefact: each loss of a rollout server, and each start of one that failed and was tried again."""
_SHAPE = {
    "recipe": dict,
    "work": str,
    "model": str,
    "inputs": {...: str},
    "servers": [str],
    "runs_dir": str,
}
LEFT_OUT = "left_out.json"
"""In the artefact: which records of its inputs a training stage does not use, and why."""


@dataclass(frozen=True)
class WorkOrder:
    """What the ranks of a stage are told.

    Attributes:
        recipe: resolved.
        work: the artefact being written.
        model: Hugging Face folder with the initial weights.
        inputs: the stage's other inputs.
        servers: the rollout servers' describing files, where the stage needs any.
        runs_dir: where a stop file would be; None: where ``work`` is.
    """

    recipe: DictConfig
    work: Path
    model: Path
    inputs: dict[str, Path]
    servers: Sequence[Path] = ()
    runs_dir: Path | None = None

    def write(self) -> Path:
        """Into the artefact; returns the file."""
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
        """The inverse of ``write``."""
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
        """Indices of the records of input ``name`` that its stage left out, see ``write_left_out``."""
        path = self.work / LEFT_OUT
        left_out = (
            shaped(read_json(path, LIMIT << 4), {...: {...: [int]}}, str(path)) if path.exists() else {}
        )
        reasons = left_out.get(name, {})
        return frozenset(index for indices in reasons.values() for index in indices)


def note_loss(work: Path, cause: str) -> None:
    """Add a rollout server's loss, or a start that failed, to the artefact's list."""
    with (work / LOSSES).open("a", encoding="utf-8") as out:
        out.write(json.dumps({"time": time.time(), "cause": strike(cause)}) + "\n")


def losses(work: Path) -> list[str]:
    """The causes on that list, oldest first; a line being written is not there yet."""
    return [loss["cause"] for _, loss in read_figures(work / LOSSES, {"cause": str})]


def write_left_out(work: Path, left_out: Mapping[str, Mapping[str, Sequence[int]]]) -> None:
    """Tell the ranks which records not to use: input's name -> reason -> indices in the file, from 0."""
    write_json(work / LEFT_OUT, left_out)


def python_environment() -> dict[str, str]:
    """This process's environment for a child that has to import this checkout in any folder."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    # without PYTHONSAFEPATH `python -m` would import what lies in the current folder first, which may be /tmp
    return dict(os.environ) | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def own_caches() -> dict[str, str]:
    """Where PyTorch's compiler keeps code: by itself in /tmp, under a name that anybody may take first."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return {"TORCHINDUCTOR_CACHE_DIR": str(Path(home) / "reasongrm" / "inductor")}


def first_rank() -> bool:
    """Whether this is the rank that writes files and talks to the rollout server."""
    return int(os.environ.get("RANK", 0)) == 0


@contextmanager
def rank_of_the_run(order: WorkOrder) -> Iterator[None]:
    """Around a rank's work: it dies with its launcher, and leaves its cause of death for the stage.

    SIGUSR1, which Slurm sends to every process of a job, asks for a save and an end (see ``stop_requests``).
    """
    die_with_parent(os.getppid())
    ask_on_signal(order.runs_dir or order.work, order.recipe.name)
    try:
        yield
    except BaseException as error:
        # now: what fills the disk may be removed with this process
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
        # where not even that can be written the stage sees the full disk itself
        with suppress(OSError), (order.work / "failures.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        with suppress(OSError):
            traceback.print_exc()
            sys.stderr.flush()
        raise SystemExit(2 if known else 1) from None

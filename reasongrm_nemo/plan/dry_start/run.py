# SPDX-License-Identifier: Apache-2.0
"""Start a recipe's stage dry, and say which of its keys that has exercised."""

from __future__ import annotations

import importlib
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo import plan as plans
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge import load_template
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.plan.dry_start.stand_ins import StandInPool, write_inputs
from reasongrm_nemo.plan.model import config_folder
from reasongrm_nemo.plan.simulation import Request, rank_of_stage, simulate
from reasongrm_nemo.plan.simulation.keys_read import keys_read
from reasongrm_nemo.recipe.load import input_paths
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.manifest import flatten
from reasongrm_nemo.run.stage import StageContext
from reasongrm_nemo.stage_kinds import kind_of

# Read before a stage is run, by `recipe.load` and the command line.
_ELSEWHERE = ("model.trust_remote_code",)


@dataclass(frozen=True)
class DryStart:
    """What a dry start has done.

    Attributes:
        recipe: its name.
        done: what was run, in words.
        read: dotted keys that were read on the way.
        unread: keys of the stage's blocks (``stage_kinds``) that were not.
    """

    recipe: str
    done: list[str]
    read: list[str]
    unread: list[str]


def dry_start(recipe: DictConfig) -> DryStart:
    """Run a stage's own code short of a GPU, in a temporary folder.

    ``prepare``, ``filter``, ``generate``, ``mine`` and ``evaluate`` run whole, on made-up records, with
    servers placed and configured for the recipe's nodes and answered for by a stand-in. ``grpo`` and ``sft``
    build the real model of the first and the last pipeline stage on fake tensors and take a real step of it,
    then run the trainer's loop (GRPO) or make the trainer (SFT) with a stand-in for the model.

    Raises:
        UserError: whatever the stage itself would refuse.
        StageFailed: the trainer's part ended badly.
    """
    read: set[str] = set()
    done: list[str] = []
    with tempfile.TemporaryDirectory() as folder, keys_read(read):
        made = write_inputs(recipe, Path(folder))
        missing = sorted(set(input_paths(recipe)) - set(made) - {"megatron"})
        pool = StandInPool()
        if kind_of(recipe).runs_model:
            plans.plan(recipe)
        if recipe.judge.template is not None:
            load_template(recipe.judge.template)
        work = Path(folder) / "artefact"
        work.mkdir()
        if kind_of(recipe).trains:
            if kind_of(recipe).on_policy:
                pool.get(recipe, made["model"])
            done += _train(recipe, made, work, read)
        else:
            done.append(_sample(recipe, made, work, pool, missing))
    if pool.commands:
        done.insert(0, f"{len(set(pool.commands))} vLLM server(s) placed and configured")
    if missing:
        done.append(f"left out, for want of a made-up {' and '.join(missing)}: what reads it")
    blocks = (*kind_of(recipe).blocks, *(("checkpoints", "tracking") if kind_of(recipe).trains else ()))
    resolved: Any = OmegaConf.to_container(recipe)
    whole = flatten(resolved)
    keys = {key for key in whole if key.split(".")[0] in blocks and key not in _ELSEWHERE}
    parents = {key.rsplit(".", 1)[0] for key in read if "." in key}
    unread = sorted(key for key in keys if key not in read and not _inside(key, read - parents))
    return DryStart(recipe.name, done, sorted(read & keys), unread)


def _inside(key: str, read: set[str]) -> bool:
    """Whether a block that the key lies in was taken as a whole."""
    parts = key.split(".")
    return any(".".join(parts[:depth]) in read for depth in range(2, len(parts)))


def _sample(recipe: DictConfig, made: dict[str, Path], work: Path, pool: Any, missing: list[str]) -> str:
    own = recipe
    if missing:
        own = OmegaConf.create(OmegaConf.to_container(recipe))  # type: ignore[assignment]
        for name in missing:
            if name in own.inputs:
                own.inputs[name] = None
    log = logging.getLogger("reasongrm.dry_start")
    ctx = StageContext(own, work, made, Console(quiet=True), log, pool)
    importlib.import_module(f"reasongrm_nemo.stages.{recipe.stage}").run(ctx)
    written = ", ".join(sorted(path.name for path in work.iterdir()))
    return f"stage {recipe.stage} has run on made-up records: {written}"


def _train(recipe: DictConfig, made: dict[str, Path], work: Path, read: set[str]) -> list[str]:
    folder = config_folder(recipe)
    if folder is None:
        raise UserError(f"{recipe.name}: plan.config is null; name a folder that has the model's config.json")
    Architecture.from_folder(folder, recipe.model.rope)
    inputs = {name: str(path) for name, path in made.items()}
    requests = [Request(recipe, folder, 0, dry=inputs | {"work": str(work)})]
    if recipe.cluster.pipeline_parallel > 1:  # the loss is the last stage's
        last = rank_of_stage(recipe.cluster, recipe.cluster.pipeline_parallel - 1)
        requests.append(Request(recipe, folder, last, dry={}))
    reports = simulate(requests)
    read.update(*(report.keys for report in reports))
    ranks = " and ".join(f"{report.rank} ({report.parameters:,} parameters)" for report in reports)
    return [
        f"the model was built and stepped on fake tensors, on rank {ranks}",
        "the trainer's loop has run with a stand-in for the model"
        if kind_of(recipe).on_policy
        else "examples were read and the trainer was made",
    ]

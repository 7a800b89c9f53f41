# SPDX-License-Identifier: Apache-2.0
"""Runs one stage: finds the inputs, skips or resumes the stage, and completes the artefact."""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.disk import disk_full
from reasongrm_nemo.files.documents import check_file, read_json
from reasongrm_nemo.processes.secret_values import strike
from reasongrm_nemo.processes.stop_requests import MARKER, Limits, Stopped, mark
from reasongrm_nemo.processes.work_order import losses, note_loss
from reasongrm_nemo.recipe import checks, load
from reasongrm_nemo.rollout.server import versions
from reasongrm_nemo.rollout.server.settings import PYTHON_VARIABLE
from reasongrm_nemo.run.console import Console, duration
from reasongrm_nemo.run.manifest import (
    Artefact,
    HashCache,
    check_made,
    code_version,
    content_hash,
    identity,
    note_whole,
    package_versions,
    stage_key,
    what_changed,
)
from reasongrm_nemo.run.run_date import dated
from reasongrm_nemo.run.shards import check_shard_manifests
from reasongrm_nemo.run.text import printable
from reasongrm_nemo.run.tokenizers import compare_tokenizers
from reasongrm_nemo.stage_kinds import kind_of

if TYPE_CHECKING:
    from reasongrm_nemo.rollout import Rollouts
    from reasongrm_nemo.run.rollout_pool import RolloutPool


# Sampling stages stop this long before the time limit; answers in flight are lost in any case.
_WORK_S = 30.0


@dataclass
class StageContext:
    """The argument of a stage's `run(ctx)`.

    Attributes:
        cfg: the resolved recipe, read-only.
        work: the artefact's partial folder; it survives a kill, and a resumed stage finds its files there.
        inputs: name -> existing path; names as in `recipe.load.input_paths`.
        console: prints messages to the user.
        log: writes to stage.log in the artefact.
        resumed: whether an earlier run left files in `work`.
        drops: records dropped, by reason; use `drop`.
    """

    cfg: DictConfig
    work: Path
    inputs: dict[str, Path]
    console: Console
    log: logging.Logger
    pool: RolloutPool
    resumed: bool = False
    drops: Counter[str] = field(default_factory=Counter)

    def drop(self, reason: str, count: int = 1) -> None:
        """Count dropped records; they are printed when the stage ends, and kept in the manifest."""
        if count:
            self.drops[reason] += count

    def whole(self, *files: Path) -> None:
        """Record files in `work` that are finished before the stage is; a resumed run verifies them."""
        note_whole(self.work, *files)

    def stop_if_asked(self) -> None:
        """Stop here if the run was asked to end; for stages that write their results as they go.

        Raises:
            Stopped: the run was asked to end; a marker file records it.
        """
        must_save_by = self.cfg.checkpoints.checkpoint_must_save_by
        limits = Limits(Path(self.cfg.runs_dir), must_save_by, name=self.cfg.name)
        if reason := limits.reached(_WORK_S):
            mark(self.work, reason)
            raise Stopped(f"{self.cfg.name} has ended, and its samples are kept: {reason}")

    def rollouts(self, model_dir: Path | None = None) -> Rollouts:
        """The shared rollout servers, started on first use, serving `model_dir` or the model input."""
        self.pool.on_loss = self._lost
        return self.pool.get(self.cfg, model_dir or self.inputs["model"])

    def _lost(self, cause: str) -> None:
        note_loss(self.work, cause)
        self.say_loss(cause)

    def say_loss(self, cause: str) -> None:
        """Report on screen and in the log that a rollout server was lost, or failed to start at first."""
        self.console.warn(f"a rollout server was lost and is being restarted: {cause}")
        self.log.warning("a rollout server was lost: %s", cause)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a stage.

    Attributes:
        name: the artefact's name.
        path: the artefact's folder.
        skipped: the artefact already existed with the same key.
        manifest: the artefact's manifest.
    """

    name: str
    path: Path
    skipped: bool
    manifest: dict[str, Any]


def run_stage(cfg: DictConfig, console: Console, pool: RolloutPool, headline: str = "") -> Outcome:
    """Produce one recipe's artefact. The caller must hold the lock of the runs folder.

    Args:
        cfg: from `recipe.load.load_recipe`.
        console: prints progress.
        pool: provides the rollout servers.
        headline: prefix of the stage's name, such as "2/8".

    Raises:
        UserError: an input is missing or does not fit the recipe, or the stage refuses it.
        StageFailed: the disk is full, or the stage could not continue; its results so far are kept.
    """
    runs_dir = Path(cfg.runs_dir)
    artefact = Artefact(runs_dir, cfg.name)
    title = f"{headline} {cfg.name}".strip()
    try:
        cfg = dated(cfg, keep=True)
        artefact.recover()
        cache = HashCache(say=console.line)
        paths, inputs = _inputs(cfg, runs_dir, cache)
        ident = identity(cfg, inputs)
        key = stage_key(ident)
        manifest = artefact.manifest()
        why = ""
        if manifest is not None:
            wrong = artefact.damage(manifest, cache) if manifest["key"] == key else None
            if manifest["key"] == key and wrong is None:
                console.stage(title, f"done before ({duration(manifest['timings']['seconds'])}), unchanged")
                return Outcome(cfg.name, artefact.path, True, manifest)
            why = wrong or what_changed(manifest["identity"], ident)
        check_shard_manifests(cfg, paths, ident)
        tokenizers = compare_tokenizers(cfg, paths, console.line)
        resumed, gone = artefact.begin(key, ident, inputs)
        (artefact.work / MARKER).unlink(missing_ok=True)
        if gone:
            console.line(f"  an unfinished {cfg.name} belonged to another recipe and is {gone}")
        console.stage(title, "resuming" if resumed else f"again: {why}" if why else cfg.stage)
        manifest = _run(cfg, artefact, cache, paths, resumed, console, pool, tokenizers)
        return Outcome(cfg.name, artefact.path, False, manifest)
    except Exception as error:
        full = disk_full(error, artefact.work)
        if full is not None:
            raise full from error
        raise


def is_done(cfg: DictConfig) -> bool:
    """Whether the recipe's artefact is complete, and was made by this recipe from the current inputs."""
    cfg = dated(cfg)
    runs_dir = Path(cfg.runs_dir)
    artefact = Artefact(runs_dir, cfg.name)
    manifest, cache = artefact.manifest(), HashCache()
    if manifest is None:
        return False
    try:
        _, inputs = _inputs(cfg, runs_dir, cache)
    except UserError:
        return False  # an input does not exist
    key = stage_key(identity(cfg, inputs))
    return bool(manifest["key"] == key) and artefact.damage(manifest, cache) is None


def _run(
    cfg: DictConfig,
    artefact: Artefact,
    cache: HashCache,
    paths: dict[str, Path],
    resumed: bool,
    console: Console,
    pool: RolloutPool,
    tokenizers: dict[str, str],
) -> dict[str, Any]:
    log, handler = _logger(cfg.name, artefact.work)
    started = time.time()
    try:
        ctx = StageContext(cfg, artefact.work, paths, console, log, pool, resumed)
        module = importlib.import_module(f"reasongrm_nemo.stages.{cfg.stage}")
        result = dict(module.run(ctx) or {})
        if lost := losses(artefact.work):
            result["servers_lost"] = len(lost)
        log.info("finished: %s", result)
    except BaseException as error:
        log.error("ended by %s: %s", type(error).__name__, error)
        raise
    finally:
        log.removeHandler(handler)
        handler.close()
    console.drops(dict(ctx.drops))
    manifest = artefact.finish(
        {
            "format": 1,
            "name": cfg.name,
            "stage": cfg.stage,
            "seed": cfg.seed,
            "code": code_version(),
            "packages": package_versions(),
            **_of_servers(cfg),
            "tokenizers": tokenizers,
            "result": result,
            "drops": dict(sorted(ctx.drops.items())),
            "recipe": OmegaConf.to_container(cfg),
        },
        cache,
    )
    console.line(f"  → {artefact.path}  ({duration(time.time() - started)})")
    return manifest


def _of_servers(cfg: DictConfig) -> dict[str, Any]:
    """The rollout environment's package versions, if the stage samples; not part of the key."""
    if not kind_of(cfg).samples or cfg[cfg.stage].get("shards"):
        return {}
    python = cfg.cluster.rollout_python or os.environ.get(PYTHON_VARIABLE, "")
    return {"rollout_packages": versions.installed_versions(str(python))}


class _StageLog(logging.FileHandler):
    """Raises on a full disk like any other writer; logging would print a traceback and continue."""

    def handleError(self, record: logging.LogRecord) -> None:
        raise


class _OneLine(logging.Formatter):
    """One line per entry, without control characters and secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(strike(super().format(record)), keep="\t")


def _logger(name: str, work: Path) -> tuple[logging.Logger, logging.Handler]:
    log = logging.getLogger(f"reasongrm.{name}")
    log.setLevel(logging.INFO)
    log.propagate = False
    file = work / "stage.log"
    if os.path.lexists(file):
        check_file(file)
    handler = _StageLog(file, encoding="utf-8")
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    return log, handler


def _inputs(cfg: DictConfig, runs_dir: Path, cache: HashCache) -> tuple[dict[str, Path], dict[str, Any]]:
    """Existing paths by name, and their entries for the manifest."""
    paths: dict[str, Path] = {}
    kept: dict[str, Any] = {}
    for name, (key, value) in load.input_paths(cfg).items():
        path = load.require_path(value, runs_dir, key)
        if load.is_model_input(name):
            check_checkpoint(cfg, path, key)
        files = check_made(path, cache.tree(path), key)
        paths[name] = path
        kept[name] = {
            "value": value,
            "path": str(path.absolute()),
            "sha256": content_hash(files),
            "files": files,
        }
    return paths, kept


def check_checkpoint(cfg: DictConfig, path: Path, key: str) -> Mapping[str, Any]:
    """The config.json of a Hugging Face folder, checked to fit the recipe; errors name `key`."""
    file = path / "config.json"
    if not file.is_file():
        raise UserError(f"{key}: {path} has no config.json; give a Hugging Face model folder")
    hf_config: Mapping[str, Any] = read_json(file)
    if kind_of(cfg).runs_model:
        checks.check_model(cfg, hf_config, str(file))
    return hf_config

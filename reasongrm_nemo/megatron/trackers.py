# SPDX-License-Identifier: Apache-2.0
"""Logs to TensorBoard, Weights & Biases and MLflow through Lightning's loggers, as the recipe says."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import read_json
from reasongrm_nemo.files.shapes import shaped
from reasongrm_nemo.files.writes import write_json


def make_trackers(recipe: DictConfig, work: Path) -> list[Any]:
    """Create the loggers that ``tracking`` names and log the recipe; a resumed run continues its curves.

    API keys and addresses come from the services' environment variables (WANDB_API_KEY,
    MLFLOW_TRACKING_TOKEN, ...), never from the recipe.

    Args:
        recipe: resolved recipe.
        work: folder of the artefact being written; local files go there.

    Raises:
        UserError: a required package is not installed.
    """
    tracking = recipe.tracking
    trackers = []
    if tracking.tensorboard:
        trackers.append(_tensorboard(work))
    if tracking.wandb_project is not None:
        trackers.append(_wandb(recipe, work))
    if tracking.mlflow_experiment is not None:
        trackers.append(_mlflow(recipe, work))
    for tracker in trackers:
        tracker.log_hyperparams(OmegaConf.to_container(recipe))
    return trackers


def _tensorboard(work: Path) -> Any:
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(save_dir=work, name="tensorboard", version="")


def _wandb(recipe: DictConfig, work: Path) -> Any:
    _require("wandb", "tracking.wandb_project")
    from lightning.pytorch.loggers import WandbLogger

    # derive the run id from the artefact, so a resumed run continues its curve
    run = hashlib.sha256(f"{work.resolve()} {recipe.seed}".encode()).hexdigest()[:16]
    return WandbLogger(
        project=recipe.tracking.wandb_project, name=recipe.name, id=run, save_dir=work, resume="allow"
    )


def _mlflow(recipe: DictConfig, work: Path) -> Any:
    _require("mlflow", "tracking.mlflow_experiment")
    from lightning.pytorch.loggers import MLFlowLogger

    # MLflow 3 refuses to write plain files without this variable
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    note = work / "mlflow.json"
    logger = MLFlowLogger(
        experiment_name=recipe.tracking.mlflow_experiment,
        tracking_uri=recipe.tracking.mlflow_uri,
        save_dir=str(work / "mlruns"),
        run_name=recipe.name,
        run_id=shaped(read_json(note), {"run_id": str}, str(note))["run_id"] if note.exists() else None,
    )
    write_json(note, {"run_id": logger.run_id})
    return logger


def _require(package: str, key: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise UserError(f"{key} is set, but {package} is not installed in the trainer environment.")

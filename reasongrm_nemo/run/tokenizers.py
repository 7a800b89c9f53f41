# SPDX-License-Identifier: Apache-2.0
"""Checks, before a stage starts, that we read a model's tokenizer as transformers does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

from omegaconf import DictConfig

from reasongrm_nemo.models.tokenization import agreement
from reasongrm_nemo.recipe.load import input_paths, is_model_input, resolve_path
from reasongrm_nemo.rollout.server import versions
from reasongrm_nemo.rollout.server.settings import PYTHON_VARIABLE


def compare_tokenizers(
    cfg: DictConfig, inputs: Mapping[str, Path], say: Callable[[str], None]
) -> dict[str, str]:
    """Compare the tokenizers of a stage's input models with transformers.

    Args:
        cfg: the recipe, which names the two environments.
        inputs: paths by name.
        say: called with a message if no environment could read a tokenizer; the stage continues.

    Returns:
        Input name -> result in words, for the manifest.

    Raises:
        UserError: a tokenizer differs or cannot be read.
    """
    agreements = {}
    for name, folder in inputs.items():
        if is_model_input(name) and (folder / "tokenizer.json").is_file():  # otherwise the stage refuses it
            agreements[name] = agreement.check_agreement(folder, _environments(cfg))
            if agreements[name].startswith(agreement.NOT):
                say(f"  the tokenizer of {folder} was {agreements[name]}")
    return agreements


def compare_given(cfg: DictConfig, say: Callable[[str], None]) -> None:
    """`compare_tokenizers` for the models that exist before a pipeline's first stage."""
    given = {
        name: resolve_path(value, cfg.runs_dir)
        for name, (_, value) in input_paths(cfg).items()
        if not value.startswith("@")
    }
    compare_tokenizers(cfg, given, say)


def _environments(cfg: DictConfig) -> list[tuple[str, str]]:
    """Python and transformers version of each environment; first the trainer's, of the paper models' time."""
    trainer = cfg.cluster.trainer_python or sys.executable
    rollout = cfg.cluster.rollout_python or os.environ.get(PYTHON_VARIABLE)
    pythons = dict.fromkeys(str(python) for python in (trainer, rollout) if python)
    return [(python, version) for python in pythons if (version := _transformers(python)) is not None]


def _transformers(python: str) -> str | None:
    if python != sys.executable:
        return versions.installed_versions(python).get("transformers")
    try:
        return metadata.version("transformers")
    except metadata.PackageNotFoundError:
        return None

# SPDX-License-Identifier: Apache-2.0
"""The shape of a recipe's model, found without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from reasongrm_nemo import checks, config
from reasongrm_nemo.architecture import Architecture
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files import read_json


class ShapeUnknown(UserError):
    """No config.json of the recipe's model is at hand."""


def config_folder(recipe: DictConfig) -> Path | None:
    """Where the model's config.json lies: in ``model.hf_path``, else in ``plan.config``; None: nowhere.

    Raises:
        ShapeUnknown: neither is there, though the recipe has a model.
    """
    tried = []
    for key in ("hf_path", "config"):
        value = recipe.model.hf_path if key == "hf_path" else recipe.plan.config
        if value is None:
            continue
        folder = config.resolve_path(value, recipe.runs_dir)
        if (folder / "config.json").is_file():
            return folder
        tried.append(f"{'model' if key == 'hf_path' else 'plan'}.{key} {value}")
    if tried:
        raise ShapeUnknown(
            f"{recipe.name}: the model's shape is not known, no config.json is in {' or '.join(tried)}; "
            "name a folder that has one by plan.config"
        )
    return None


def architecture(recipe: DictConfig) -> Architecture | None:
    """The model's shape, checked against the recipe; None where the stage has no model.

    Raises:
        UserError: as ``config_folder``, or the model does not fit the recipe.
    """
    if recipe.stage in ("prepare", "filter"):
        return None
    folder = config_folder(recipe)
    if folder is None:
        raise ShapeUnknown(
            f"{recipe.name}: plan.config is null; name a folder that has the model's config.json"
        )
    file = folder / "config.json"
    found: Mapping[str, Any] = read_json(file)
    checks.check_model(recipe, found, str(file))
    served_only = recipe.stage not in ("grpo", "sft")
    return Architecture.from_config(found, str(file), recipe.model.rope, served_only)

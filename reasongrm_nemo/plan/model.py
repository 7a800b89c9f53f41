# SPDX-License-Identifier: Apache-2.0
"""Reads the shape of a recipe's model without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import read_json
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.recipe import checks, load
from reasongrm_nemo.run.manifest import check_path
from reasongrm_nemo.stage_kinds import kind_of


class ShapeUnknown(UserError):
    """No config.json of the recipe's model was found."""


def config_folder(recipe: DictConfig) -> Path:
    """Folder of the model's config.json: ``model.hf_path``, else ``plan.config``.

    Raises:
        ShapeUnknown: neither holds one.
    """
    tried: list[str] = []
    for key, value in (("model.hf_path", recipe.model.hf_path), ("plan.config", recipe.plan.config)):
        if value is None:
            continue
        folder = load.resolve_path(value, recipe.runs_dir)
        if (folder / "config.json").is_file():
            return folder
        tried.append(f"{key} {value}")
    if not tried:
        raise ShapeUnknown(
            f"{recipe.name}: plan.config is null; set it to a folder with the model's config.json"
        )
    raise ShapeUnknown(
        f"{recipe.name}: the model's shape is unknown, as no config.json is in {' or '.join(tried)}; "
        "set plan.config to a folder that has it"
    )


def _check_judges(recipe: DictConfig, planned: Architecture) -> None:
    """Refuse an ``evaluate.models`` entry of another or an unknown shape.

    Raises:
        ShapeUnknown: names the first.
    """
    for name, entry in recipe.evaluate.models.items():
        value = entry if isinstance(entry, str) else entry.hf_path
        if value == recipe.model.hf_path or value.startswith("@"):  # trained from the planned model
            continue
        file = load.resolve_path(value, recipe.runs_dir) / "config.json"
        if not file.is_file():
            raise ShapeUnknown(
                f"{recipe.name}: the shape of evaluate.models.{name} is unknown, as no config.json is in "
                f"{value}; plan that model in a separate recipe"
            )
        other = Architecture.from_config(read_json(file), str(file), recipe.model.rope, served_only=True)
        if other != planned:
            raise ShapeUnknown(
                f"{recipe.name}: evaluate.models.{name} differs in shape from model.hf_path "
                f"{recipe.model.hf_path}; plan them in separate recipes"
            )


def architecture(recipe: DictConfig) -> Architecture | None:
    """Shape of the model, checked against the recipe; None if the stage has no model.

    Raises:
        UserError: as ``config_folder``, or the model and the recipe do not match.
    """
    if not kind_of(recipe).runs_model:
        return None
    file = config_folder(recipe) / "config.json"
    check_path(file, "model.hf_path")
    config: Mapping[str, Any] = read_json(file)
    checks.check_model(recipe, config, str(file))
    served_only = not kind_of(recipe).trains
    shape = Architecture.from_config(config, str(file), recipe.model.rope, served_only)
    if "evaluate" in recipe:
        _check_judges(recipe, shape)
    return shape

# SPDX-License-Identifier: Apache-2.0
"""The shape of a recipe's model, found without its weights."""

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
    """No config.json of the recipe's model is at hand."""


def config_folder(recipe: DictConfig) -> Path:
    """Where the model's config.json lies: in ``model.hf_path``, else in ``plan.config``.

    Raises:
        ShapeUnknown: neither is there.
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
            f"{recipe.name}: plan.config is null; name a folder that has the model's config.json"
        )
    raise ShapeUnknown(
        f"{recipe.name}: the model's shape is not known, no config.json is in {' or '.join(tried)}; "
        "name a folder that has one by plan.config"
    )


def _check_judges(recipe: DictConfig, planned: Architecture) -> None:
    """Refuse models of evaluate that are of another shape, or of one that nobody knows.

    Raises:
        ShapeUnknown: naming the first.
    """
    for name, entry in recipe.evaluate.models.items():
        value = entry if isinstance(entry, str) else entry.hf_path
        if value == recipe.model.hf_path or value.startswith("@"):  # made of the model that is planned
            continue
        file = load.resolve_path(value, recipe.runs_dir) / "config.json"
        if not file.is_file():
            raise ShapeUnknown(
                f"{recipe.name}: the shape of evaluate.models.{name} is not known, no config.json is in "
                f"{value}; plan that model by a recipe of its own"
            )
        other = Architecture.from_config(read_json(file), str(file), recipe.model.rope, served_only=True)
        if other != planned:
            raise ShapeUnknown(
                f"{recipe.name}: evaluate.models.{name} is of another shape than model.hf_path "
                f"{recipe.model.hf_path}; plan each by a recipe of its own"
            )


def architecture(recipe: DictConfig) -> Architecture | None:
    """The model's shape, checked against the recipe; None where the stage has no model.

    Raises:
        UserError: as ``config_folder``, or the model does not fit the recipe.
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

# SPDX-License-Identifier: Apache-2.0
"""Checks that the shards merged by a recipe were made by the same recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import read_json
from reasongrm_nemo.files.shapes import shaped
from reasongrm_nemo.run.manifest import what_changed
from reasongrm_nemo.stage_kinds import KINDS, kind_of


def check_shard_manifests(cfg: DictConfig, paths: Mapping[str, Path], ident: Mapping[str, Any]) -> None:
    """Compare the manifest of each shard, if there is one, with the recipe.

    Args:
        cfg: the recipe; nothing is checked unless it merges shards.
        paths: the recipe's inputs by name, see `recipe.load.input_paths`.
        ident: from `manifest.identity`.

    Raises:
        UserError: a shard was made by another recipe, or from other inputs.
    """
    if not kind_of(cfg).sharded:
        return
    for index in range(len(cfg[cfg.stage].shards)):
        given = paths[f"shards.{index}"]
        folder = given if given.is_dir() else given.parent
        if not (folder / "manifest.json").is_file():
            continue
        made = shaped(read_json(folder / "manifest.json"), {"identity?": dict}, str(folder)).get(
            "identity", {}
        )
        changed = what_changed(_shared(cfg.stage, made), _shared(cfg.stage, ident))
        if made and changed:
            raise UserError(
                f"{cfg.stage}.shards: {folder} was made by a different recipe ({changed}); run "
                "that shard again, or merge the shards with the recipe that made them"
            )


def _shared(stage: str, ident: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the identity that all shards share with the merged result."""
    whole = (f"{stage}.shard", "input shards", *(KINDS[stage].after_shards or ()))
    inputs = tuple(f"{name}." for name in whole if name.startswith("input "))
    return {key: value for key, value in ident.items() if key not in whole and not key.startswith(inputs)}

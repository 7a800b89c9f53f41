# SPDX-License-Identifier: Apache-2.0
"""The stage key: a hash of the recipe keys that affect a stage's result, and of its inputs' contents."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.judge import built_in_templates, load_template
from reasongrm_nemo.judge.functions import source_digest
from reasongrm_nemo.models.tokenization import asks_for_date
from reasongrm_nemo.recipe.checks import templates
from reasongrm_nemo.recipe.keys import counts
from reasongrm_nemo.recipe.load import is_model_input
from reasongrm_nemo.rewards import OUTCOME
from reasongrm_nemo.stage_kinds import kind_of


def identity(cfg: DictConfig, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The data hashed into the stage key: dotted recipe keys that affect the result, and the inputs' hashes.

    Args:
        cfg: the resolved recipe.
        inputs: name -> `{sha256, path, ...}`.

    Raises:
        UserError: the template is a file that can no longer be read.
    """
    kind = kind_of(cfg)
    paths = tuple(f"{cfg.stage}.{key}" for key in kind.paths)  # their contents are hashed
    whole: Any = OmegaConf.to_container(cfg)
    kept = {block: whole[block] for block in kind.blocks}
    flat = {"stage": cfg.stage, "seed": cfg.seed} | flatten(kept)
    flat = {
        key: value
        for key, value in flat.items()
        if counts(key) and not any(key == path or key.startswith(f"{path}.") for path in paths)
    }
    for key in kind.paths:
        flat |= _beside_contents(f"{cfg.stage}.{key}", _at(whole[cfg.stage], key), inputs)
    if not _asks_for_date(inputs):
        flat.pop("judge.date", None)
    # A built-in template changes only with the package, whose version is part of no key.
    for key, template in templates(cfg).items():
        if template not in built_in_templates():
            flat[f"input {key}"] = load_template(template).digest
    if (reward := cfg[cfg.stage].get("reward", OUTCOME)) != OUTCOME:
        flat[f"input {cfg.stage}.reward"] = source_digest(reward, f"{cfg.stage}.reward")
    return flat | {f"input {name}": item["sha256"] for name, item in inputs.items()}


def _at(block: Any, key: str) -> Any:
    return functools.reduce(lambda below, part: below[part], key.split("."), block)


def _beside_contents(key: str, value: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What an input's key adds to the contents: the order of the rows, and each model's sampling."""
    if isinstance(value, dict):  # the order matters: the other rows are compared with the first
        models = {row: entry for row, entry in value.items() if isinstance(entry, dict)}
        options = {
            f"{key}.{row}.{part}": entry[part]
            for row, entry in models.items()
            for part in entry
            if part != "hf_path"
        }
        return {key: list(value), **options}
    if isinstance(value, str) and key.split(".")[1] not in inputs:  # not a path, but the name of a source
        return {key: value}
    return {}


def _asks_for_date(inputs: Mapping[str, Any]) -> bool:
    """Whether the chat template of any input model asks for today's date."""
    return any(
        is_model_input(name) and "path" in item and asks_for_date(Path(item["path"]))
        for name, item in inputs.items()
    )


def stage_key(ident: Mapping[str, Any]) -> str:
    """The hash of what `identity` returns."""
    lines = "\n".join(f"{key}={ident[key]!r}" for key in sorted(ident))
    return hashlib.sha256(lines.encode()).hexdigest()


def what_changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """A short reason for a rerun: the first few keys or inputs that differ."""
    changed = []
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            is_input = key.startswith("input ")
            changed.append(f"{key} changed" if is_input else f"{key} {old.get(key)} → {new.get(key)}")
    return ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings into dotted keys; lists and empty mappings are values."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat

# SPDX-License-Identifier: Apache-2.0
"""Disk space of a stage's artefact."""

from __future__ import annotations

from typing import Any

from reasongrm_nemo.megatron import states
from reasongrm_nemo.models import parameter_counts
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.plan import counts
from reasongrm_nemo.stage_kinds import kind_of

# Measured bytes of a response token as JSON: its text, its id in a path, its id and log-prob in rollouts/.
_TEXT, _ID, _ROLLOUT = 5, 7, 27


def disk_bytes(recipe: Any, architecture: Architecture, mean_response: float) -> dict[str, int]:
    """Peak bytes by content, which is while a checkpoint is written and before an old one is deleted.

    Args:
        recipe: the recipe.
        architecture: shape of its model.
        mean_response: mean response length in tokens.
    """
    options, kind = recipe[recipe.stage], kind_of(recipe)
    if kind.trains:
        one, held = checkpoint(recipe, architecture), parameter_counts.of_model(architecture)
        kept = options.keep_checkpoints + recipe.checkpoints.keep_best
        steps = counts.steps(recipe)
        saved = kept + 1 if steps is None else -(-steps // options.save_every)
        sizes = {
            "checkpoints": min(kept, saved) * one,
            # none if every checkpoint is kept
            "checkpoint_being_written": one if saved > kept else 0,
            "export": states.WIDTH[recipe.model.dtype] * held,
        }
        if kind.on_policy:
            responses = (steps or 0) * options.prompts_per_step * options.samples_per_prompt
            sizes["rollouts"] = int(responses * mean_response * _ROLLOUT)
        return sizes
    if kind.samples:
        responses = sum(samples * models for samples, models in counts.passes(recipe))
        width = _TEXT + (_ID if options.get("keep_token_ids") else 0)
        name = "verdicts" if "evaluate" in recipe else "paths"
        return {name: int((counts.tasks(recipe) or 0) * responses * mean_response * width)}
    return {}


def checkpoint(recipe: Any, architecture: Architecture) -> int:
    """Bytes of a checkpoint of a training stage."""
    held = parameter_counts.of_model(architecture)
    return states.checkpoint_bytes(held, recipe.model.dtype, recipe.cluster.platform)

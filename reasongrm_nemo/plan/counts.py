# SPDX-License-Identifier: Apache-2.0
"""Number of records, steps and samples of a stage."""

from __future__ import annotations

from typing import Any

from reasongrm_nemo.grpo.steps import grpo_steps
from reasongrm_nemo.recipe.checks import judges_benchmarks
from reasongrm_nemo.sft.steps import step_count, trained
from reasongrm_nemo.stage_kinds import kind_of


def steps(recipe: Any) -> int | None:
    """Optimizer steps of a training stage; None if its number of records is unknown."""
    count = tasks(recipe)
    if kind_of(recipe).on_policy:
        return None if recipe.grpo.steps is None and count is None else grpo_steps(recipe.grpo, count or 0)
    return None if count is None else step_count(trained(count, recipe.sft), recipe.sft)


def tasks(recipe: Any) -> int | None:
    """Number of records that the stage processes; None if the recipe does not say."""
    options, sharded = recipe[recipe.stage], kind_of(recipe).sharded
    count: int | None = recipe.plan.tasks
    if sharded and options.shards:
        return 0  # the run only merges shards
    # evaluate.max_tasks limits held-out tasks only, not benchmark items
    if not judges_benchmarks(recipe) and options.get("max_tasks") is not None:
        count = min(options.max_tasks, count or options.max_tasks)
    if count is not None and sharded and options.shard is not None:
        count = -(-count // int(options.shard.split("/")[1]))
    return count


def passes(recipe: Any) -> list[tuple[int, int]]:
    """(samples per prompt, number of models) of each pass of a sampling stage over its records."""
    options = recipe[recipe.stage]
    if "settings" in options:
        return [(setting.samples, len(options.models)) for setting in options.settings]
    return [(options.samples, 1)]


def sft_batch(recipe: Any) -> int:
    """Examples in a full SFT step."""
    count, whole = tasks(recipe), int(recipe.sft.batch_size)
    return whole if count is None else min(whole, trained(count, recipe.sft))

# SPDX-License-Identifier: Apache-2.0
"""Checks before a stage starts: of the recipe alone, and against its checkpoint."""

from reasongrm_nemo.recipe.checks.checkpoint import check_model
from reasongrm_nemo.recipe.checks.every_stage import check_recipe
from reasongrm_nemo.recipe.checks.judges import judges_benchmarks, spell_out_models, templates
from reasongrm_nemo.recipe.checks.refusal import near, origin_of
from reasongrm_nemo.recipe.checks.sampling_stages import made_or_fetched

__all__ = [
    "check_model",
    "check_recipe",
    "judges_benchmarks",
    "made_or_fetched",
    "near",
    "origin_of",
    "spell_out_models",
    "templates",
]

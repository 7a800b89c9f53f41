# SPDX-License-Identifier: Apache-2.0
"""Dry start of a stage: its template, server placement and settings, and one step on fake tensors."""

from __future__ import annotations

import os
import sys
from unittest.mock import patch

from omegaconf import DictConfig

from reasongrm_nemo.judge import load_template
from reasongrm_nemo.plan.model import architecture, config_folder
from reasongrm_nemo.plan.simulation.compare import check
from reasongrm_nemo.plan.whole import check_fit
from reasongrm_nemo.processes import placement
from reasongrm_nemo.recipe.load import resolve_path
from reasongrm_nemo.rollout import RolloutSettings
from reasongrm_nemo.rollout.server.settings import PYTHON_VARIABLE
from reasongrm_nemo.stage_kinds import kind_of


def dry_start(recipe: DictConfig) -> list[str]:
    """Do what the stage does before it needs a GPU, inputs or weights; returns a sentence for each step.

    Servers are placed on made-up nodes and configured; the model of the first and last pipeline stage is
    built on fake tensors and takes one step with one micro-batch.

    Raises:
        UserError: the recipe does not fit, the stage would refuse it, or there is no trainer environment.
        StageFailed: the model could not be built or stepped.
    """
    check_fit(recipe)
    done = []
    if recipe.judge.template is not None:
        load_template(recipe.judge.template)
        done.append(f"the template {recipe.judge.template} was read")
    if kind_of(recipe).samples:
        done.append(f"{place_servers(recipe)} vLLM server(s) placed and configured")
    if kind_of(recipe).trains:
        shape = architecture(recipe)
        assert shape is not None  # the stage has a model
        reports = [end.report for end in check(recipe, config_folder(recipe), shape)]
        ranks = (f"{report.rank} ({report.held.count.total:,} parameters)" for report in reports)
        done.append(f"the model was built and stepped on fake tensors, on rank {' and '.join(ranks)}")
    return done


def place_servers(recipe: DictConfig) -> int:
    """Place and configure the recipe's servers on made-up nodes; returns the number of servers."""
    nodes = (recipe.cluster.nodes if kind_of(recipe).on_policy else 1) + recipe.rollout.nodes
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": ",".join(f"node{i + 1}" for i in range(nodes))}
    python = os.environ.get(PYTHON_VARIABLE, sys.executable)
    with patch.dict(os.environ, {PYTHON_VARIABLE: python}):
        spots = placement.find(recipe, job).spots
        for spot in spots:
            settings = RolloutSettings.from_config(recipe, spot.index, spot)
            settings.arguments(resolve_path("asset:tiny_judge", "."), 8000)  # any model will do
            settings.environment("token")
    return len(spots)

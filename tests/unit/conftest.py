# SPDX-License-Identifier: Apache-2.0
"""Stages run by hand on the tiny judge's recipes."""

import logging
import os

import pytest
from fake_pool import RECIPES


@pytest.fixture
def context(tmp_path):
    """``context(recipe, *overrides, pool=None, work="work")``: what a stage's run() takes."""
    from reasongrm_nemo.recipe.load import input_paths, load_recipe, require_path
    from reasongrm_nemo.run.console import Console
    from reasongrm_nemo.run.stage import StageContext

    def make(recipe, *overrides, pool=None, work="work"):
        cfg = load_recipe(RECIPES / f"{recipe}.yaml", [f"runs_dir={tmp_path / 'runs'}", *overrides])
        inputs = {n: require_path(v, cfg.runs_dir, key) for n, (key, v) in input_paths(cfg).items()}
        folder = tmp_path / work
        folder.mkdir(exist_ok=True)
        return StageContext(cfg, folder, inputs, Console(quiet=True), logging.getLogger("test"), pool)

    return make


@pytest.fixture
def tasks(context, tmp_path):
    """Thirty training and ten held-out tasks, where the other recipes look for them."""
    from reasongrm_nemo.data import read_tasks
    from reasongrm_nemo.stages import prepare

    small = ["prepare.tiny_judge.train=30", "prepare.tiny_judge.validation=10"]
    prepare.run(context("0_prepare", *small, work="runs"))
    (tmp_path / "runs" / "0_prepare").mkdir()
    for name in ("tasks.jsonl", "validation.jsonl"):
        os.rename(tmp_path / "runs" / name, tmp_path / "runs" / "0_prepare" / name)
    return list(read_tasks(tmp_path / "runs" / "0_prepare" / "tasks.jsonl"))

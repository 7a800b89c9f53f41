# SPDX-License-Identifier: Apache-2.0
"""A stage that copies its inputs, in place of the filter stage."""

from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.stage import run_stage
from reasongrm_nemo.stages import filter as filter_stage

RECIPE = """
defaults: [base/filter]
inputs: {paths: %s/paths.jsonl, tasks: %s/tasks.jsonl}
runs_dir: %s/runs
"""


def recipe_in(folder):
    """Write a filter recipe and its two inputs to a folder."""
    path = folder / "3_filter.yaml"
    path.write_text(RECIPE % (folder, folder, folder), encoding="utf-8")
    (folder / "paths.jsonl").write_text("paths\n")
    (folder / "tasks.jsonl").write_text("tasks\n")
    return path


def copying_stage(monkeypatch):
    """A stage that copies its inputs, counts its calls, and runs what the test adds."""

    def run(ctx):
        run.calls += 1
        run.resumed = ctx.resumed
        text = ctx.inputs["paths"].read_text() + ctx.inputs["tasks"].read_text()
        (ctx.work / "out.txt").write_text(text)
        (ctx.work / "deep").mkdir(exist_ok=True)
        (ctx.work / "deep" / "more.txt").write_text("more")
        ctx.drop("odd", 3)
        ctx.drop("none", 0)
        run.also(ctx)
        return {"lines": 2}

    run.calls, run.also, run.resumed = 0, lambda ctx: None, None
    monkeypatch.setattr(filter_stage, "run", run)
    return run


def go(recipe, *overrides):
    return run_stage(load_recipe(recipe, overrides), Console(quiet=True), pool=None)

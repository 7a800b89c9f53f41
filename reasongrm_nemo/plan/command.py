# SPDX-License-Identifier: Apache-2.0
"""The output of `reasongrm plan`: figures as data and as text, and the error to end with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo import plan as plans
from reasongrm_nemo.errors import StageFailed, UserError
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.plan import text as report
from reasongrm_nemo.plan.dry_start import dry_start
from reasongrm_nemo.plan.model import config_folder
from reasongrm_nemo.plan.rollout_plot import draw
from reasongrm_nemo.plan.rollout_study import study
from reasongrm_nemo.plan.rollouts.lengths import Sampled, fit, read_paths
from reasongrm_nemo.plan.simulation.compare import check, compare, has_trainer
from reasongrm_nemo.plan.sweep import sweep
from reasongrm_nemo.plan.whole import refusal
from reasongrm_nemo.recipe.load import find_recipe, load_recipe, load_with_origins
from reasongrm_nemo.report.artefact import resolved_recipe
from reasongrm_nemo.run.pipeline import load_all, recipe_files
from reasongrm_nemo.stage_kinds import kind_of

Told = tuple[Any, str, UserError | None]
"""Data for JSON, text for the terminal, and the error to end with."""


def of_recipe(
    path: Path,
    overrides: Iterable[str],
    simulated: bool = False,
    checked: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> Told:
    """Every key of a recipe with its origin, then its plan.

    Without a known model shape there is no plan, and a sentence says so; that is an error if ``plan.config``
    names a folder or a simulation is requested. The plan of a training stage is checked by running one
    micro-batch through the real model code.

    Args:
        path: the recipe.
        overrides: ``key=value`` words.
        simulated: compare the plan with a simulation of each distinct rank.
        checked: False skips the check, which takes about 15 seconds.
        say: receives progress messages.

    Raises:
        UserError: the recipe is wrong, its layout does not divide the model, or it cannot be simulated.
        StageFailed: the simulation failed.
    """
    recipe, origins = load_with_origins(path, overrides)
    if simulated and not kind_of(recipe).trains:
        raise UserError(f"--simulate: stage {recipe.stage} trains nothing, so it has no step to simulate")
    resolved: Any = OmegaConf.to_container(recipe)
    keys = resolved_recipe(resolved, origins)
    try:
        made = plans.plan(recipe)
    except plans.ShapeUnknown as unknown:
        stated = simulated or recipe.plan.config is not None
        return resolved | {"figures": None}, f"{keys}\n\nno figures: {unknown}", unknown if stated else None
    if made is None:
        return resolved | {"figures": None}, keys, None
    data, text = resolved | {"figures": made.to_dict()}, f"{keys}\n\n{report.as_text(made, recipe)}"
    shape, folder = plans.architecture(recipe), config_folder(recipe)
    assert shape is not None  # there is a plan
    if simulated:
        compared = compare(recipe, folder, shape)
        data |= {"simulation": report.comparison_data(compared)}
        text += "\n\n" + report.comparison_text(compared)
    elif checked and made.ranks and not made.misfits:
        check_data, line, failure = _check(recipe, folder, shape, say)
        return data | check_data, f"{text}\n\n{line}", failure
    return data, text, refusal(recipe.name, made.misfits)


def _check(recipe: DictConfig, folder: Path, shape: Architecture, say: Callable[[str], None]) -> Told:
    if not has_trainer(recipe):
        line = "not checked against the model's own code: no NeMo-Aligner here (cluster.trainer_python)"
        return {}, line, None
    say("checking one micro-batch with the model's own code (about 15 s; --no-check skips it)")
    try:
        ends = check(recipe, folder, shape)
    except StageFailed as failure:
        return {}, "the model's own code could not take one micro-batch", failure
    return {"check": report.comparison_data(ends)}, report.check_text(ends, recipe), None


def of_rollouts(path: Path, overrides: Iterable[str], sample: Path | None, plot: Path | None) -> Told:
    """Simulated rollouts of a GRPO recipe.

    Args:
        path: the recipe.
        overrides: ``key=value`` words.
        sample: a ``paths.jsonl`` whose lengths replace the recipe's ``plan.responses``.
        plot: output file for a plot of the first step.

    Raises:
        UserError: the recipe is wrong, or its rollouts cannot be simulated.
    """
    recipe = load_recipe(path, overrides)
    shape = plans.architecture(recipe)
    fitted, lengths = None, None
    if sample is not None:
        limit = recipe.rollout.max_response_tokens
        tasks, cut = read_paths(sample)
        fitted, lengths = fit(tasks, cut, limit), Sampled(tasks, limit)
    simulated_steps = study(recipe, shape, lengths)
    if plot is not None:
        draw(simulated_steps.first_step, plot, f"{recipe.name}: the rollouts of one step")
    data = simulated_steps.to_dict() | {"fit": None if fitted is None else asdict(fitted)}
    return data, report.rollouts_text(simulated_steps, recipe, fitted), None


def of_dry_start(path: Path, overrides: Iterable[str]) -> Told:
    """Dry start of a recipe, or of every recipe in a folder.

    Raises:
        UserError: a stage would refuse to start.
        StageFailed: a model could not be built or stepped.
    """
    folder = find_recipe(path).is_dir()
    recipes = load_all(recipe_files(path), overrides) if folder else [load_recipe(path, overrides)]
    started = [(recipe.name, dry_start(recipe)) for recipe in _made_of(recipes)]
    text = "\n".join("\n  ".join([f"{name}: started dry", *done]) for name, done in started)
    return [{"recipe": name, "done": done} for name, done in started], text, None


def of_folder(path: Path, overrides: Iterable[str]) -> Told:
    """A table of a pipeline's stages, with totals."""
    recipes = _made_of(load_all(recipe_files(path), overrides))
    made = [(recipe.name, plans.plan(recipe)) for recipe in recipes]
    data = {name: None if plan is None else plan.to_dict() for name, plan in made}
    wrong = next((refusal(name, plan.misfits) for name, plan in made if plan and plan.misfits), None)
    return data, report.pipeline_text(made), wrong


def _made_of(recipes: Sequence[DictConfig]) -> list[DictConfig]:
    """The recipes; ``@stage`` models get the shape of the model that the named stage trains."""
    by_name: dict[str, DictConfig] = {}
    for recipe in recipes:
        value = recipe.model.hf_path
        maker = by_name.get(value[1:].split("/")[0]) if value and value.startswith("@") else None
        if maker is not None and kind_of(maker).runs_model:
            recipe = OmegaConf.create(OmegaConf.to_container(recipe))  # type: ignore[assignment]
            recipe.plan.config = str(config_folder(maker))
        by_name[recipe.name] = recipe
    return [*by_name.values()]


def of_layouts(path: Path, overrides: Iterable[str], axes: Sequence[str]) -> Told:
    """Alternative layouts of the recipe, side by side.

    Raises:
        UserError: the recipe or an axis is wrong, or its stage trains nothing.
    """
    recipe = load_recipe(path, overrides)
    rows = sweep(recipe, plans.architecture(recipe), axes)
    return [row.__dict__ for row in rows], report.sweep_text(rows, recipe, axes), None

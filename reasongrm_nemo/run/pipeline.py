# SPDX-License-Identifier: Apache-2.0
"""Runs the recipes of a folder by number: skips finished stages, and resumes interrupted ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from omegaconf import DictConfig

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.locks import RunsLock
from reasongrm_nemo.processes.stop_requests import stop_on_signal
from reasongrm_nemo.recipe import load
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.rollout_pool import RolloutPool
from reasongrm_nemo.run.stage import Outcome, run_stage
from reasongrm_nemo.run.tokenizers import compare_given
from reasongrm_nemo.stage_kinds import KINDS, kind_of

_MEGATRON = "model.megatron_path"
_NUMBERED = re.compile(r"(\d+)_.+\.yaml")


def recipe_files(folder: Path) -> list[Path]:
    """The recipes `<number>_<name>.yaml` of a folder (see `recipe.load.find_recipe`), by number.

    Raises:
        UserError: the folder does not exist, has no recipes, or two with the same number.
    """
    folder = load.find_recipe(folder)
    if folder.is_file():
        raise UserError(f"{folder} is a file; give the folder that its pipeline's recipes are in")
    if not folder.is_dir():
        known = (
            (path.name for path in folder.parent.iterdir() if path.is_dir()) if folder.parent.is_dir() else ()
        )
        raise UserError(f"pipeline folder {folder} does not exist{load.near(folder.name, known)}")
    numbered = [
        (int(match[1]), path) for path in folder.iterdir() if (match := _NUMBERED.fullmatch(path.name))
    ]
    if not numbered:
        raise UserError(f"{folder} holds no recipes named <number>_<name>.yaml")
    numbered.sort()
    for (number, path), (other, second) in pairwise(numbered):
        if number == other:
            raise UserError(f"{folder}: {path.name} and {second.name} have the same number")
    return [path for _, path in numbered]


def find_stage(files: Sequence[Path], word: str, option: str) -> int:
    """The index of the recipe that `word` names by file stem, by number, or by stem without number.

    Raises:
        UserError: no recipe has this name, or several do.
    """
    stems = [path.stem for path in files]
    matches = [
        i for i, stem in enumerate(stems) if word in (stem, stem.split("_")[0], stem.partition("_")[2])
    ]
    if len(matches) != 1:
        raise UserError(
            f'{option} "{word}" is not a stage of this pipeline{load.near(word, stems)}; '
            f"it has {', '.join(stems)}"
        )
    return matches[0]


def find_part(files: Sequence[Path], first: str | None, last: str | None) -> slice:
    """The recipes from `first` to `last`, both included; None: from the beginning, to the end.

    Raises:
        UserError: as for `find_stage`, or `first` comes after `last`.
    """
    start = find_stage(files, first, "--from") if first is not None else 0
    stop = find_stage(files, last, "--to") if last is not None else len(files) - 1
    if stop < start:
        raise UserError(f"--from {first} comes after --to {last}")
    return slice(start, stop + 1)


def assign(files: Sequence[Path], overrides: Iterable[str]) -> dict[Path, list[str]]:
    """Assigns overrides to recipes, keeping their order.

    An override applies to every recipe that has its key, and at least one must; `1_grpo_zero:grpo.steps=5`
    applies to that recipe alone. An override without a stage does not replace another stage's artefact:
    `model.hf_path=/data/QwQ-32B` sets the base model that training starts from, not the trained model that
    later stages sample from. Likewise `model.megatron_path`, the base in another format, is not applied to a
    recipe that starts from another stage's model.

    Raises:
        UserError: no recipe has the key, or several artefacts could be meant.
    """
    assigned: dict[Path, list[str]] = {path: [] for path in files}
    for word in overrides:
        stage, colon, rest = word.partition(":")
        if colon and "=" not in stage:
            assigned[files[find_stage(files, stage, "override for")]].append(rest)
        else:
            for path in _takers(files, word):
                assigned[path].append(word)
    return assigned


def _takers(files: Sequence[Path], word: str) -> list[Path]:
    key, equals, _ = (part.strip() for part in word.partition("="))
    takers = [path for path in files if load.has_key(path, key)]
    if not equals:
        raise UserError(f'command line: "{word}" is not an override; expected key=value')
    if not takers:
        known = sorted({name for path in files for name in load.known_keys(path)})
        raise UserError(f'command line: unknown key "{key}"{load.near(key, known)}; no stage here has it')
    if key == _MEGATRON:
        takers = _starting_from_the_base(takers, word)
    has = {path: load.stated(path, key) for path in takers}
    artefacts = [path for path in takers if str(has[path]).startswith("@")]
    if not artefacts:
        return takers
    if any(has[path] is not None for path in takers if path not in artefacts):
        return [path for path in takers if path not in artefacts]
    if len(artefacts) > 1:
        stems = ", ".join(path.stem for path in artefacts)
        raise UserError(
            f"command line: {key} is another stage's artefact in {stems}; "
            f"name the stage you mean, such as {artefacts[0].stem}:{word}"
        )
    return artefacts


def _starting_from_the_base(files: Sequence[Path], word: str) -> list[Path]:
    """The recipes that train from a model that no stage here makes; only they can use the base's weights."""
    training = [stage for stage, kind in KINDS.items() if kind.trains]
    trained = [path for path in files if load.stated(path, "stage") in training]
    takers = [path for path in trained if not str(load.stated(path, "model.hf_path")).startswith("@")]
    if not takers:
        such_as = f", such as {trained[0].stem}:{word}" if trained else ""
        raise UserError(
            f"command line: {_MEGATRON} applies to no stage here, because none trains from a base model; "
            f"name the stage you mean{such_as}"
        )
    return takers


def load_all(files: Sequence[Path], overrides: Iterable[str]) -> list[DictConfig]:
    """Loads and checks every recipe with its overrides (see `assign`)."""
    return load_assigned(assign(files, overrides))


def load_assigned(given: Mapping[Path, Sequence[str]]) -> list[DictConfig]:
    """`load_all` for the result of `assign`."""
    recipes = [load.load_recipe(path, words) for path, words in given.items()]
    folders = {cfg.runs_dir for cfg in recipes}
    if len(folders) > 1:
        raise UserError(
            f"the recipes of a pipeline must share one runs_dir, but these have {', '.join(sorted(folders))}"
        )
    names = [cfg.name for cfg in recipes]
    for path, cfg in zip(given, recipes, strict=True):
        if names.count(cfg.name) > 1:
            raise UserError(f"{path}: name {cfg.name} is used by two recipes of this pipeline")
    return recipes


def run_pipeline(
    folder: Path,
    console: Console,
    first: str | None = None,
    last: str | None = None,
    overrides: Iterable[str] = (),
) -> list[Outcome]:
    """Run a folder's recipes from `first` to `last`, both included.

    Finished, unchanged stages are skipped, interrupted ones resumed, and those whose recipe or inputs changed
    are rerun. All stages share the rollout servers.

    Raises:
        UserError: a recipe is wrong (raised before anything starts), or a stage cannot continue.
    """
    files = recipe_files(folder)
    part = find_part(files, first, last)
    recipes = load_all(files, overrides)
    _check_references(files, recipes)
    chosen = recipes[part]
    runs_dir = Path(chosen[0].runs_dir)
    outcomes = []
    if limits := _limits(chosen):
        console.line(limits)
    _check_paths(files[part], chosen)
    elsewhere = {path for cfg in chosen for path in load.artefacts_elsewhere(cfg)}
    with (
        RunsLock(runs_dir, elsewhere=elsewhere),
        stop_on_signal(runs_dir),
        RolloutPool(runs_dir / ".logs", console) as pool,
    ):
        for cfg in chosen:
            compare_given(cfg, console.line)
        for number, cfg in enumerate(chosen, 1):
            outcomes.append(run_stage(cfg, console, pool, f"{number}/{len(chosen)}"))
    return outcomes


def _limits(recipes: Sequence[DictConfig]) -> str:
    """A note on the keys that limit how many tasks the recipes use; empty if none does."""
    words = []
    for cfg in recipes:
        for key in kind_of(cfg).limits:
            if (limit := cfg[cfg.stage][key]) is not None:
                words.append(f"{cfg.name}:{cfg.stage}.{key}={limit}")
        if kind_of(cfg).on_policy and (steps := cfg.grpo.get("steps")) is not None:
            tasks = steps * cfg.grpo.prompts_per_step
            words.append(f"{cfg.name}:grpo.steps={steps} ({tasks} tasks)")
    return f"tasks are limited by {', '.join(words)}; a maximum of null takes all" if words else ""


def _check_references(files: Sequence[Path], recipes: Sequence[DictConfig]) -> None:
    """Check that each `@artefact` exists or is made by an earlier recipe."""
    made: list[str] = []
    for path, cfg in zip(files, recipes, strict=True):
        for key, value in load.input_paths(cfg).values():
            artefact = load.artefact_of(value)
            if artefact is None or artefact in made or (Path(cfg.runs_dir) / artefact).exists():
                continue
            raise UserError(
                f"{path}: {key} is {value}, but no earlier recipe makes it{load.near(artefact, made)}"
            )
        _check_megatron(path, cfg)
        made.append(cfg.name)


def _check_paths(files: Sequence[Path], recipes: Sequence[DictConfig]) -> None:
    """Check that each input path that no stage makes exists before the first stage starts."""
    for file, cfg in zip(files, recipes, strict=True):
        made_here = Path(cfg.runs_dir).absolute()
        for key, value in load.input_paths(cfg).values():
            path = load.resolve_path(value, cfg.runs_dir).absolute()
            if load.artefact_of(value) is None and not path.is_relative_to(made_here):
                load.require_path(value, cfg.runs_dir, f"{file}: {key}")


def _check_megatron(path: Path, cfg: DictConfig) -> None:
    """Refuse a Megatron checkpoint whose supposed source is a model that does not exist yet."""
    source, converted = str(cfg.model.hf_path), cfg.model.megatron_path
    if converted is None or not source.startswith("@") or converted.startswith("@"):
        return
    if not load.resolve_path(source, cfg.runs_dir).exists():
        raise UserError(
            f"{path}: {_MEGATRON} is {converted}, which cannot have been converted from model.hf_path "
            f"{source}, because that model does not exist yet"
        )

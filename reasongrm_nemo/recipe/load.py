# SPDX-License-Identifier: Apache-2.0
"""Loads recipes: YAML that states only its differences from bases, which hold every key.

A recipe lists the files that it inherits under `defaults`. The files under `base/` are the schema: a key that
none of them has is an error that names the nearest known key, and a value must have the type it has in the
base. In a base, `null` allows any scalar, `???` marks a required key, an empty mapping allows any names, and
the first element of a list is the pattern for all elements.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import check_file
from reasongrm_nemo.files.refusals import sentence
from reasongrm_nemo.processes.secret_values import hide_all
from reasongrm_nemo.recipe import checks
from reasongrm_nemo.recipe.checks import near
from reasongrm_nemo.recipe.schema import (
    MISSING,
    check_keys,
    is_known,
    layers_of,
    leaves,
    put_over,
    schema_of,
    typed,
)
from reasongrm_nemo.recipe.yaml_files import Source, command_line, read_source
from reasongrm_nemo.stage_kinds import KINDS, kind_of

# "@3_filter/examples.jsonl" in the same runs folder, "@qwq_32b:3_filter/examples.jsonl" in a sibling folder
_REFERENCE = re.compile(r"@(?:(?P<folder>\w[\w.-]*):)?(?P<place>(?P<artefact>\w[^/:]*)(?:/.*)?)", re.DOTALL)
_PACKAGE = Path(__file__).resolve().parents[1]


def recipes_root(recipe: Path | None = None) -> Path:
    """The folder that `defaults` are relative to.

    The nearest folder above `recipe` that contains a `base` folder; otherwise the folder named by
    REASONGRM_RECIPES; otherwise the recipes shipped with this package.
    """
    if recipe is not None:
        for folder in Path(os.path.realpath(recipe)).parents:
            if (folder / "base").is_dir():
                return folder
    if os.environ.get("REASONGRM_RECIPES"):
        return Path(os.environ["REASONGRM_RECIPES"])
    # Beside the package in a checkout, inside it in a wheel.
    beside = _PACKAGE.parent / "recipes"
    return beside if (beside / "base").is_dir() else _PACKAGE / "_recipes"


def find_recipe(path: str | Path) -> Path:
    """`path`, or the shipped recipe if `path` begins with `recipes/` and does not exist."""
    path = Path(path)
    if path.parts[:1] == ("recipes",) and not path.exists():
        shipped = recipes_root().joinpath(*path.parts[1:])
        return shipped if shipped.exists() else path
    return path


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> DictConfig:
    """Read, merge, resolve and check one recipe.

    Args:
        path: the recipe's YAML file.
        overrides: `key=value` words; the values are parsed as YAML.

    Returns:
        The complete recipe, read-only, with every key, `name` and `runs_dir` filled in.

    Raises:
        UserError: a missing file, bad YAML, an unknown key, a wrong type, a required key without a value,
            or a failed check across keys; the message names the file and the key.
    """
    return load_with_origins(path, overrides)[0]


def load_with_origins(path: str | Path, overrides: Iterable[str] = ()) -> tuple[DictConfig, dict[str, str]]:
    """`load_recipe`, and for each dotted key the "file:line" (or "command line") that set its value last."""
    path = find_recipe(path)
    sources = _gather(path, recipes_root(path))
    command = command_line(overrides)
    schema = schema_of(sources)
    if not schema:
        raise UserError(
            f'{path}: inherits no base; add "defaults: [base/<stage>]" (see {recipes_root()}/base)'
        )
    layered: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source in [*sources, command]:
        checks.spell_out_models(source.data)
        if not source.is_base:
            check_keys(source, source.data, schema, "")
        for key in source.replaces:
            _clear(layered, schema, key.split("."))
        layered = put_over(layered, source.data)
        origin |= {key: source.where(key) for key, _ in leaves(source.data)}
    merged: Any = OmegaConf.create(layered)
    if _shape_of_another([*sources, command]):
        merged.plan.config = None
        origin["plan.config"] = origin["model.hf_path"]
    try:
        # select names the key where a value cannot be resolved
        if OmegaConf.select(merged, "runs_dir") is None:
            merged.runs_dir = f"runs/{Path(os.path.realpath(path)).parent.name}"
        if OmegaConf.select(merged, "name") is None:
            merged.name = path.stem
        resolved = OmegaConf.to_container(merged, resolve=True)
        _hide_secrets(resolved)
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path}: {first} (key {error.full_key})") from None
    resolved = typed(resolved, schema, "", origin, str(path))
    stage, inherited = resolved.get("stage"), schema.get("stage")
    if stage != inherited and stage in KINDS:
        raise UserError(
            f"{origin['stage']}: stage is {stage}, but the recipe inherits "
            f"{'only base/common' if inherited == MISSING else f'base/{inherited}'}; "
            f"add base/{stage} to its defaults"
        )
    cfg = OmegaConf.create(resolved)
    checks.check_recipe(cfg, str(path), origin)
    for key, value in input_paths(cfg).values():
        if value.startswith("@") and not _REFERENCE.fullmatch(value):
            raise UserError(
                f"{checks.origin_of(key, origin, str(path))}: {key} is {value}, which names no artefact; "
                "give @<artefact>/<file>, or @<runs folder>:<artefact>/<file>"
            )
    OmegaConf.set_readonly(cfg, True)
    return cfg, origin


def _clear(data: Any, schema: Any, parts: list[str]) -> None:
    """Remove the names below a dotted key if the schema allows any names there."""
    for part in parts[:-1]:
        data, schema = data.get(part), schema.get(part)
        if not isinstance(data, dict) or not isinstance(schema, dict):
            return
    if schema.get(parts[-1]) == {}:
        data[parts[-1]] = {}


def _hide_secrets(resolved: Any) -> None:
    """Replace secrets of the server's environment by placeholders before any message can show them."""
    rollout = resolved.get("rollout")
    if isinstance(rollout, dict) and isinstance(env := rollout.get("extra_env"), dict):
        rollout["extra_env"] = hide_all(env)


def has_key(path: str | Path, key: str) -> bool:
    """Whether the recipe at `path` has the dotted `key`; used to assign overrides to several recipes."""
    path = Path(path)
    return is_known(schema_of(_gather(path, recipes_root(path))), key.split("."))


def stated(path: str | Path, key: str) -> Any:
    """The value of the dotted `key` in the recipe at `path`, without overrides; None if it has none."""
    path = Path(path)
    merged = layers_of(_gather(path, recipes_root(path)))
    try:
        return OmegaConf.select(OmegaConf.create(merged), key, throw_on_missing=False)
    except OmegaConfBaseException:  # an interpolation that cannot be resolved; an override may replace it
        return None


def known_keys(path: str | Path) -> list[str]:
    """Every dotted key of the recipe's bases."""
    path = Path(path)
    return [key for key, _ in leaves(schema_of(_gather(path, recipes_root(path))))]


def resolve_path(value: str, runs_dir: str | Path) -> Path:
    """Resolves a path in a recipe: `@artefact/file`, `asset:name`, `~` or a plain path.

    `@1_grpo_zero/hf` is in the artefact 1_grpo_zero under `runs_dir`, `@qwq_32b:1_grpo_zero/hf` in the
    artefact of that name in the sibling folder qwq_32b; `asset:tiny_judge` and
    `asset:examples/preferences.jsonl` ship with the package. Other paths are relative to the current folder.
    """
    if reference := _REFERENCE.fullmatch(value):
        return _folder(reference, runs_dir) / reference["place"]
    if value.startswith("asset:"):
        name = value.removeprefix("asset:")
        inside = _PACKAGE / "assets" / name
        # A checkout has the examples at its top, a wheel among the assets.
        beside = _PACKAGE.parent / name
        return beside if name.startswith("examples/") and not inside.exists() else inside
    return Path(value).expanduser()


def require_path(value: str, runs_dir: str | Path, key: str) -> Path:
    """`resolve_path`; a missing path is a UserError with the key's name and similar file names."""
    path = resolve_path(value, runs_dir)
    if path.exists():
        return path
    if os.path.islink(path):
        raise UserError(f"{key}: {_unreachable(path)}")
    if reference := _REFERENCE.fullmatch(value):
        folder, artefact = _folder(reference, runs_dir), reference["artefact"]
        if not (folder / artefact).exists():
            raise UserError(
                f"{key}: {value} is in artefact {artefact}, which {folder} does not have; "
                f"run stage {artefact} first" + (f" (of {folder.name})" if reference["folder"] else "")
            )
    raise UserError(f"{key}: {path} does not exist{_near_file(path)}")


def input_paths(cfg: DictConfig) -> dict[str, tuple[str, str]]:
    """Every input of a recipe: name -> (dotted key, value). Keys without a value are omitted.

    The names are those of `inputs`, `model` for model.hf_path, `megatron` for model.megatron_path, `source`
    for prepare.source if it is a path, `decontaminate.<index>`, `shards.<index>`, `scorer` for
    generate.scorer.hf_path, and `models.<name>` and `logs.<name>` for evaluate.models and evaluate.logs.
    """
    inputs = {name: (f"inputs.{name}", value) for name, value in (cfg.get("inputs") or {}).items()}
    if cfg.model.hf_path:
        inputs["model"] = ("model.hf_path", cfg.model.hf_path)
    if kind_of(cfg).trains:
        inputs["megatron"] = ("model.megatron_path", cfg.model.megatron_path)
    for key in kind_of(cfg).paths:
        inputs |= _stage_paths(key.split(".")[0], f"{cfg.stage}.{key}", cfg)
    return {name: pair for name, pair in inputs.items() if pair[1] is not None}


def _stage_paths(name: str, key: str, cfg: DictConfig) -> dict[str, tuple[str, str]]:
    """The inputs under one dotted key: a path, a list of paths, or a mapping from names."""
    value = OmegaConf.select(cfg, key)
    if isinstance(value, ListConfig):
        return {f"{name}.{index}": (key, path) for index, path in enumerate(value)}
    if isinstance(value, DictConfig):
        rows = ((str(row), entry) for row, entry in value.items())
        return {f"{name}.{row}": (f"{key}.{row}", getattr(entry, "hf_path", entry)) for row, entry in rows}
    is_path = key != "prepare.source" or not checks.made_or_fetched(value)
    return {name: (key, value)} if is_path else {}


def is_model_input(name: str) -> bool:
    """Whether the input of this name (see `input_paths`) is a Hugging Face model folder."""
    return name in ("model", "scorer") or name.startswith("models.")


def artefact_of(value: str) -> str | None:
    """The artefact in the same runs folder that a path is in, such as 3_filter; None for any other path."""
    reference = _REFERENCE.fullmatch(value)
    return reference["artefact"] if reference and not reference["folder"] else None


def artefacts_read(cfg: DictConfig) -> set[str]:
    """The artefacts in the same runs folder that a recipe reads."""
    names = {artefact_of(value) for _, value in input_paths(cfg).values()}
    return {name for name in names if name is not None} - {cfg.name}


def artefacts_elsewhere(cfg: DictConfig) -> set[Path]:
    """The artefacts in sibling runs folders that a recipe reads."""
    references = (_REFERENCE.fullmatch(value) for _, value in input_paths(cfg).values())
    return {_folder(one, cfg.runs_dir) / one["artefact"] for one in references if one and one["folder"]}


def _folder(reference: re.Match[str], runs_dir: str | Path) -> Path:
    """The runs folder that a reference points into."""
    name = reference["folder"]
    return Path(os.path.abspath(runs_dir)).parent / name if name else Path(runs_dir)


# -- reading files ---------------------------------------------------------------------------------------


def _unreachable(path: Path) -> str:
    """What is wrong with a broken link."""
    try:
        path.stat()
    except OSError as error:
        return sentence(error, path)
    return f"{path} does not exist"


def _near_file(path: Path) -> str:
    folder = path.parent
    while not folder.is_dir():
        if folder == folder.parent:
            return ""
        path, folder = folder, folder.parent
    try:
        hint = near(path.name, (entry.name for entry in folder.iterdir()))
    except OSError:  # a folder without read permission
        return ""
    return hint or (f" (nor does the folder {path})" if not path.exists() and path.suffix == "" else "")


def _gather(path: Path, root: Path, seen: tuple[Path, ...] = ()) -> list[Source]:
    """The file's defaults, depth first, then the file itself."""
    here = Path(os.path.realpath(path))  # Path.resolve raises on a link to itself
    if here in seen:
        raise UserError(f"{path}: inherits itself through its defaults")
    label = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    if not path.is_file():
        if os.path.lexists(path):
            check_file(path)
        raise UserError(f"recipe {label} does not exist{_near_file(path)}")
    source = read_source(path, str(label), path.parent.name == "base")
    defaults = source.data.pop("defaults", None) or []
    if not isinstance(defaults, list) or not all(isinstance(name, str) for name in defaults):
        raise UserError(f"{source.where('defaults')}: defaults is a list of recipe names such as [base/grpo]")
    gathered: list[Source] = []
    for name in defaults:
        file = root / f"{name}.yaml"
        if not file.is_file() and (recipes_root() / f"{name}.yaml").is_file():
            file = recipes_root() / f"{name}.yaml"
        if not file.is_file():
            known = {str(other.relative_to(root).with_suffix("")) for other in root.glob("*/*.yaml")}
            raise UserError(
                f"{source.where('defaults')}: defaults names {name}, {file} does not exist{near(name, known)}"
            )
        for inherited in _gather(file, root, (*seen, here)):
            # Two files may share a base; it is merged once, at its first mention.
            if not (inherited.is_base and any(inherited.label == other.label for other in gathered)):
                gathered.append(inherited)
    return [*gathered, source]


def _shape_of_another(sources: Iterable[Source]) -> bool:
    """Whether `plan.config` describes another model than the one that a later source names.

    Two paths with the same last part are the same model, moved; an artefact is assumed to hold the model that
    `plan.config` describes.
    """
    named: Any = None
    shown: Any = None
    for source in sources:
        model, plan = source.data.get("model"), source.data.get("plan")
        if isinstance(model, dict):
            named = model.get("hf_path", named)
        if isinstance(plan, dict) and plan.get("config") is not None:
            shown = named
    known = [value for value in (named, shown) if isinstance(value, str) and value != MISSING]
    if len(known) < 2 or named.startswith("@"):
        return False
    return Path(named).name != Path(shown).name

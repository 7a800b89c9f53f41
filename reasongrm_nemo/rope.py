# SPDX-License-Identifier: Apache-2.0
"""Rotary position embeddings as a checkpoint and a recipe state them, the same for every engine.

transformers, vLLM and Megatron each read rope in their own way, and a key that one of them passes over
means a model that is silently wrong at some length. So a kind or key is taken only where all three agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reasongrm_nemo.errors import UserError

# What each kind of scaling needs, and what it may say besides.
_NEEDED = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}
_OPTIONAL = {"yarn": ("beta_fast", "beta_slow", "attention_factor", "truncate")}
_NAMES = ("rope_theta", "rope_type", "type")


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of the whole head.

    Attributes:
        theta: the base of the frequencies.
        kind: default, linear, llama3 or yarn.
        factor: by how much positions are stretched.
        original: the length the model was trained at (llama3, yarn).
        low_freq_factor: of llama3.
        high_freq_factor: of llama3.
        beta_fast: of YaRN.
        beta_slow: of YaRN.
        attention_factor: what YaRN multiplies sines and cosines by.
        max_positions: longest sequence; 0 where the config does not say.
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    original: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    max_positions: int = 0

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], where: str, recipe: Mapping[str, Any] | None = None
    ) -> Rope:
        """From a parsed config.json, and a recipe's ``model.rope`` where it says something.

        Raises:
            UserError: theta is missing, the kind is unknown, or the keys are not those all engines agree on.
        """
        config = {**config, **overrides(config, recipe)}
        # transformers 5 nests rope_theta, 4 has it on top; the default of either is silently wrong
        stated = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
        theta = config.get("rope_theta") or stated.get("rope_theta")
        if theta is None:
            raise UserError(
                f"{where}: rope_theta is missing; write it out, defaults differ between versions."
            )
        nested = stated.get("rope_theta")
        if nested is not None and float(nested) != float(theta):
            raise UserError(
                f"{where}: rope_theta is {theta:g} and, among the rope's parameters, {nested:g}: engines "
                "differ on which of them counts."
            )
        kind = stated.get("rope_type") or stated.get("type") or "default"
        if kind not in _NEEDED:
            raise UserError(f"{where}: rope scaling {kind!r} is not supported; known: {', '.join(_NEEDED)}.")
        if any(keys.get("partial_rotary_factor") not in (None, 1.0) for keys in (config, stated)):
            raise UserError(f"{where}: partial_rotary_factor is not supported; it must be 1.")
        missing = [key for key in _NEEDED[kind] if stated.get(key) is None]
        if missing:
            raise UserError(f"{where}: rope scaling {kind} lacks {', '.join(missing)}.")
        known = (*_NAMES, *_NEEDED[kind], *_OPTIONAL.get(kind, ()))
        extra = [key for key, value in stated.items() if key not in known and value is not None]
        if extra and kind != "default":
            raise UserError(
                f"{where}: rope scaling {kind} has {', '.join(extra)}, which not every engine reads."
            )
        rope = cls(
            theta=float(theta),
            kind=kind,
            factor=float(stated.get("factor") or 1.0) if kind != "default" else 1.0,
            original=int(stated.get("original_max_position_embeddings") or 0),
            max_positions=int(config.get("max_position_embeddings") or 0),
            low_freq_factor=float(stated.get("low_freq_factor") or 1.0),
            high_freq_factor=float(stated.get("high_freq_factor") or 4.0),
            beta_fast=float(stated.get("beta_fast") or 32.0),
            beta_slow=float(stated.get("beta_slow") or 1.0),
            attention_factor=_attention_factor(kind, stated),
        )
        if kind == "yarn":
            rope._check_yarn(where, stated.get("truncate", True))
        return rope

    def _check_yarn(self, where: str, truncate: Any) -> None:
        if truncate is not True:
            raise UserError(f"{where}: rope scaling yarn with truncate false is not supported.")
        # transformers 4 takes the quotient for the factor (modeling_rope_utils.py, _compute_yarn_parameters),
        # vLLM and transformers 5 the factor itself: QwQ's 40,960 / 32,768 is not 4
        if self.max_positions != round(self.factor * self.original):
            raise UserError(
                f"{where}: with rope scaling yarn max_position_embeddings must be factor × "
                f"original_max_position_embeddings = {self.factor * self.original:.0f}, "
                f"not {self.max_positions}: engines differ on which of them counts."
            )


def _attention_factor(kind: str, stated: Mapping[str, Any]) -> float:
    if kind != "yarn":
        return 1.0
    if stated.get("attention_factor") is not None:
        return float(stated["attention_factor"])
    factor = float(stated["factor"])
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def overrides(config: Mapping[str, Any], recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    """Keys of config.json that a recipe's ``model.rope`` replaces: none where its type is null.

    The same keys go to Megatron's model, to vLLM (``--hf-overrides``) and into exported checkpoints. They
    are written for transformers 4 and 5 at once (``rope_scaling`` with theta on top, ``rope_parameters``).

    Args:
        config: the checkpoint's parsed config.json, for its theta.
        recipe: ``{type, factor, original_max_position_embeddings}``.
    """
    if not recipe or recipe.get("type") is None:
        return {}
    original = int(recipe["original_max_position_embeddings"])
    scaling = {"rope_type": recipe["type"], "factor": float(recipe["factor"])}
    if recipe["type"] != "linear":  # stretches all positions alike
        scaling["original_max_position_embeddings"] = original
    theta = config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta")
    length = round(float(recipe["factor"]) * original)
    nested = {} if theta is None else {"rope_parameters": {"rope_theta": float(theta), **scaling}}
    return {"rope_scaling": scaling, **nested, "max_position_embeddings": length}

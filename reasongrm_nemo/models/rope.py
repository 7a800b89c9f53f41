# SPDX-License-Identifier: Apache-2.0
"""Rotary position embeddings, from a checkpoint and a recipe, interpreted the same way by every engine.

transformers, vLLM and Megatron read rope keys differently, and a key that one of them ignores makes a model
silently wrong at some length. A kind or key is therefore accepted only if all three agree on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reasongrm_nemo.errors import UserError

# Required and optional keys of each kind of scaling.
_NEEDED = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}
_OPTIONAL = {"yarn": ("beta_fast", "beta_slow", "attention_factor", "truncate")}
_MOST = 1e15  # excludes NaN, Infinity and numbers too large for exact positions
_NUMBERS = {*_NEEDED["llama3"], *_OPTIONAL["yarn"]} - {"truncate"}


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of the whole head.

    Attributes:
        theta: the base of the frequencies.
        kind: default, linear, llama3 or yarn.
        factor: factor by which positions are stretched.
        original: the length the model was trained at (llama3, yarn).
        low_freq_factor: parameter of llama3.
        high_freq_factor: parameter of llama3.
        beta_fast: parameter of YaRN.
        beta_slow: parameter of YaRN.
        attention_factor: factor by which YaRN multiplies sines and cosines.
        max_positions: longest sequence; 0 if the config does not say.
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
        """Read the rope from a parsed config.json, overridden by a recipe's ``model.rope`` if set.

        Raises:
            UserError: theta is missing, the kind is unknown, or engines disagree on the keys.
        """
        check_types(config, where)
        config = {**config, **_replaced(config, recipe)}
        stated = _stated(config, where)
        theta = _theta(config, stated, where)
        kind = stated.get("rope_type", "default")
        _check_keys(kind, stated, where)
        scaled = kind != "default"
        rope = cls(
            theta=theta,
            kind=kind,
            factor=float(stated["factor"]) if scaled else 1.0,
            original=int(stated.get("original_max_position_embeddings", 0)),
            max_positions=int(config.get("max_position_embeddings") or 0),
            low_freq_factor=float(stated.get("low_freq_factor", 1.0)),
            high_freq_factor=float(stated.get("high_freq_factor", 4.0)),
            beta_fast=float(stated.get("beta_fast", 32.0)),
            beta_slow=float(stated.get("beta_slow", 1.0)),
            attention_factor=float(stated.get("attention_factor") or _attention_factor(kind, stated)),
        )
        if kind == "yarn":
            rope._check_yarn(where, stated.get("truncate", True))
        return rope

    def spelled(self) -> dict[str, Any]:
        """The keys of config.json that describe this rope to every reader.

        transformers 4 reads ``rope_theta`` and ``rope_scaling``, its older versions with the key ``type``.
        transformers 5 and vLLM read ``rope_scaling`` with ``rope_theta`` if not null, and ``rope_parameters``
        otherwise. ``rope_parameters`` comes last, because engines assign keys in order and keep the last.
        """
        parameters: dict[str, Any] = {"rope_type": self.kind}
        if self.kind != "default":
            parameters["factor"] = self.factor
        if self.original:
            parameters["original_max_position_embeddings"] = self.original
        if self.kind == "llama3":
            parameters |= {
                "low_freq_factor": self.low_freq_factor,
                "high_freq_factor": self.high_freq_factor,
            }
        if self.kind == "yarn":
            plain = Rope(self.theta, attention_factor=_attention_factor("yarn", parameters))
            names = ("beta_fast", "beta_slow", "attention_factor")
            parameters |= {
                name: getattr(self, name) for name in names if getattr(self, name) != getattr(plain, name)
            }
        scaling = None if self.kind == "default" else {"type": self.kind, **parameters}
        length = {"max_position_embeddings": self.max_positions} if self.max_positions else {}
        theta = {"rope_theta": self.theta}
        return {**length, **theta, "rope_scaling": scaling, "rope_parameters": {**theta, **parameters}}

    def _check_yarn(self, where: str, truncate: Any) -> None:
        if truncate is not True:
            raise UserError(f"{where}: rope scaling yarn with truncate false is not supported.")
        # transformers 4 computes the factor as the quotient (modeling_rope_utils.py,
        # _compute_yarn_parameters), vLLM and transformers 5 use the key: QwQ's 40,960 / 32,768 is not 4
        if self.max_positions != round(self.factor * self.original):
            raise UserError(
                f"{where}: with rope scaling yarn max_position_embeddings must be factor × "
                f"original_max_position_embeddings = {self.factor * self.original:.0f}, "
                f"not {self.max_positions}; engines differ on which one they use."
            )


def check_types(config: Mapping[str, Any], where: str) -> None:
    """Check the types of the rope keys, for any model and reader.

    Raises:
        UserError: the scaling is not a mapping, or theta is not a number above 0.
    """
    for key in ("rope_scaling", "rope_parameters"):
        if not isinstance(config.get(key) or {}, Mapping):
            raise UserError(f"{where}: {key} is {config[key]!r}; it must be a mapping")
    for keys in (config, config.get("rope_scaling") or {}, config.get("rope_parameters") or {}):
        theta = keys.get("rope_theta")
        if theta is not None and (type(theta) not in (int, float) or not 0 < theta < _MOST):
            raise UserError(f"{where}: rope_theta is {theta!r}; it must be a number above 0")


def _stated(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A config.json's rope parameters from either key, without nulls and without a top-level theta."""
    scaling, parameters = (_entries(config, key, where) for key in ("rope_scaling", "rope_parameters"))
    for key in sorted(scaling.keys() & parameters.keys()):
        if scaling[key] != parameters[key]:
            raise UserError(
                f"{where}: {key} is {scaling[key]} in rope_scaling and {parameters[key]} in rope_parameters, "
                "and engines differ on which one they use; make them equal, or remove one."
            )
    stated = scaling | parameters
    if any(keys.get("partial_rotary_factor") not in (None, 1.0) for keys in (config, stated)):
        raise UserError(f"{where}: partial_rotary_factor is not supported; it must be 1.")
    stated.pop("partial_rotary_factor", None)
    return stated


def _entries(config: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    entries = {name: value for name, value in (config.get(key) or {}).items() if value is not None}
    older = entries.pop("type", None)
    if older is not None and entries.setdefault("rope_type", older) != older:
        raise UserError(
            f"{where}: {key} has type {older!r} and rope_type {entries['rope_type']!r}, and engines differ "
            "on which one they use; make them equal, or remove one."
        )
    return entries


def _theta(config: Mapping[str, Any], stated: Mapping[str, Any], where: str) -> float:
    # transformers 5 nests rope_theta, 4 has it at the top level; their defaults would be silently wrong
    thetas = [keys["rope_theta"] for keys in (config, stated) if keys.get("rope_theta") is not None]
    if not thetas:
        raise UserError(f"{where}: rope_theta is missing; set it explicitly, as engines' defaults differ.")
    if float(thetas[0]) != float(thetas[-1]):
        raise UserError(
            f"{where}: rope_theta is {thetas[0]:g} at the top level and {thetas[-1]:g} among the rope's "
            "parameters, and engines differ on which one they use; make them equal, or remove one."
        )
    return float(thetas[0])


def _check_keys(kind: Any, stated: Mapping[str, Any], where: str) -> None:
    if kind not in _NEEDED:
        raise UserError(f"{where}: rope scaling {kind!r} is not supported; known: {', '.join(_NEEDED)}.")
    missing = [key for key in _NEEDED[kind] if key not in stated]
    if missing:
        raise UserError(f"{where}: rope scaling {kind} lacks {', '.join(missing)}.")
    for key, value in stated.items():
        if key in _NUMBERS and (type(value) not in (int, float) or not abs(value) < _MOST):
            raise UserError(f"{where}: rope scaling {kind}: {key} is {value!r}; it must be a finite number.")
    known = ("rope_theta", "rope_type", *_NEEDED[kind], *_OPTIONAL.get(kind, ()))
    extra = [key for key in stated if key not in known]
    if kind == "default" and stated.get("factor") == 1:
        extra.remove("factor")
    if extra:
        raise UserError(f"{where}: rope scaling {kind} has {', '.join(extra)}, which not every engine reads.")


def _attention_factor(kind: str, stated: Mapping[str, Any]) -> float:
    """Default attention factor (Peng et al. 2023, equation 22), the same in every engine."""
    factor = float(stated["factor"]) if kind == "yarn" else 1.0
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def reach(recipe: Mapping[str, Any] | None) -> int | None:
    """Longest sequence with a recipe's ``model.rope``; None if its type is null."""
    if not recipe or recipe.get("type") is None:
        return None
    return round(float(recipe["factor"]) * int(recipe["original_max_position_embeddings"]))


def _replaced(config: Mapping[str, Any], recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    """Config keys that replace the checkpoint's scaling with the recipe's ``model.rope``; keeps theta."""
    if not recipe or (length := reach(recipe)) is None:
        return {}
    scaling = {"rope_type": recipe["type"], "factor": float(recipe["factor"])}
    if recipe["type"] != "linear":  # linear scaling does not depend on the original length
        scaling["original_max_position_embeddings"] = int(recipe["original_max_position_embeddings"])
    nested = [(config.get(key) or {}).get("rope_theta") for key in ("rope_parameters", "rope_scaling")]
    theta = next((value for value in nested if value is not None), None)
    return {
        "rope_scaling": None,
        "rope_parameters": {"rope_theta": theta, **scaling},
        "max_position_embeddings": length,
    }

# SPDX-License-Identifier: Apache-2.0
"""A judge's settings: prompt, verdict parsing and sampling; stored as `judge.json` along with its weights.

A trained judge consists of a model and the form that the model learned: the prompt's template, the forced
beginning of the response (`response_prefix`), the parsing of verdicts, and the sampling of answers.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import read_json
from reasongrm_nemo.files.lines import encodable
from reasongrm_nemo.judge.parse import POLICIES
from reasongrm_nemo.judge.template import Template, check_placeholders, load_template

FILE = "judge.json"
DEFAULT_TEMPLATE, DEFAULT_POLICY = "reasongrm", "last"
"""Defaults for a model without a judge.json if the recipe does not say; the same as in recipes/base."""
_FORMAT = 1


@dataclass(frozen=True)
class JudgeSampling:
    """Sampling options of answers.

    Attributes:
        temperature: 0 is greedy.
        top_p: 1 is off.
        top_k: -1 is off.
        min_p: 0 is off.
        repetition_penalty: 1 is off.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @classmethod
    def of(cls, data: Any, where: str) -> JudgeSampling:
        """Read sampling options from a mapping; null means the default.

        Args:
            data: the mapping.
            where: name of the mapping in errors.

        Raises:
            UserError: not a mapping, an unknown name, or a value out of its range.
        """
        names = [spec.name for spec in fields(cls)]
        if not isinstance(data, dict):
            raise UserError(f"{where} is {data!r}; it must be a mapping of {', '.join(names)}")
        for name, value in data.items():
            if name not in names:
                raise UserError(f"{where} has the unknown key '{name}'; known are {', '.join(names)}")
            if value is not None and not _fits(name, value):
                raise UserError(f"{where}.{name} is {value!r}; it must be {_RANGES[name]}")
        given = {
            name: value if name == "top_k" else float(value)
            for name, value in data.items()
            if value is not None
        }
        if given.get("top_k") == 0:  # off in transformers
            given["top_k"] = -1
        return cls(**given)  # type: ignore[arg-type]  # top_k alone is an int

    def words(self) -> str:
        """Describe the options that are not off: `T = 0.6, top-p 0.95, top-k 20`, or `greedy`."""
        if self.temperature == 0:
            return "greedy"
        words = [f"T = {self.temperature:g}"]
        words += [f"top-p {self.top_p:g}"] if self.top_p < 1 else []
        words += [f"top-k {self.top_k}"] if self.top_k > 0 else []
        words += [f"min-p {self.min_p:g}"] if self.min_p > 0 else []
        penalty = self.repetition_penalty
        return ", ".join(words + ([f"repetition penalty {penalty:g}"] if penalty != 1 else []))


TEMPERATURE = "0, for greedy, or from 0.01 to 2"


def fits_temperature(value: float) -> bool:
    """Whether vLLM samples at exactly this temperature; vLLM raises others to 0.01 or refuses them."""
    return value == 0 or 0.01 <= value <= 2


TOP_K_MOST = (1 << 31) - 1
"""Largest top-k; vLLM stores it in 32 bits."""
_RANGES = {
    "temperature": TEMPERATURE,
    "top_p": "a number above 0 and at most 1",
    "top_k": "a whole number from 1 to 2147483647, or -1 or 0 for no limit",
    "min_p": "a number from 0 to 1",
    "repetition_penalty": "a number above 0 and at most 2",
}


def _fits(name: str, value: Any) -> bool:
    if type(value) not in (int, float):
        return False
    if name == "top_k":
        return type(value) is int and -1 <= value <= TOP_K_MOST
    if name == "temperature":
        return fits_temperature(value)
    high = 2 if name == "repetition_penalty" else 1
    return bool(0 < value <= high or (name == "min_p" and value == 0))


@dataclass(frozen=True)
class JudgeSettings:
    """The settings of one judge.

    Attributes:
        template: template of the prompt.
        policy: policy for parsing verdicts, one of `judge.POLICIES`.
        response_prefix: forced beginning of the assistant's turn.
        sampling: sampling options for judging; None: unspecified.
    """

    template: Template
    policy: str = DEFAULT_POLICY
    response_prefix: str = ""
    sampling: JudgeSampling | None = None

    @classmethod
    def of(cls, judge: Any) -> JudgeSettings:
        """Settings from a recipe's `judge` block, in which every key must have a value."""
        return cls(load_template(judge.template), judge.policy, judge.response_prefix)

    def write(self, folder: Path) -> None:
        """Write judge.json into a model's folder."""
        template = self.template
        data = {
            "format": _FORMAT,
            "template": {"name": template.name, "system": template.system, "user": template.user},
            "policy": self.policy,
            "response_prefix": self.response_prefix,
            "sampling": None if self.sampling is None else asdict(self.sampling),
        }
        text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
        aside = folder / f".{FILE}.tmp"
        aside.write_text(text, encoding="utf-8")
        aside.replace(folder / FILE)


def read_settings(folder: Path) -> JudgeSettings | None:
    """Read the judge.json of a model's folder; None if there is none.

    Raises:
        UserError: the file cannot be read, or has another format.
    """
    file = folder / FILE
    if not os.path.lexists(file):
        return None
    data = _read(file)
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise UserError(
            f"{file} is not a judge.json of format {_FORMAT}; export the model again, or remove the file"
        )
    wording = data.get("template")
    if not isinstance(wording, dict) or not isinstance(wording.get("user"), str):
        raise UserError(f"{file}: template must have name, user and optionally system, all of them strings")
    texts = {name: data.get(name) for name in ("policy", "response_prefix")}
    texts |= {f"template.{name}": wording.get(name) or "" for name in ("name", "system", "user")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise UserError(f"{file}: {name} is {text!r}; it must be text")
        if text != encodable(text):
            raise UserError(f"{file}: {name} has an unpaired surrogate; export the model again")
    if data["policy"] not in POLICIES:
        raise UserError(f"{file}: policy is '{data['policy']}'; it can be {', '.join(POLICIES)}")
    check_placeholders(wording.get("system") or "", wording["user"], f"{file}: template")
    template = Template(wording.get("name") or FILE, "", wording["user"], wording.get("system"))
    sampling = data.get("sampling")
    drawn = None if sampling is None else JudgeSampling.of(sampling, f"{file}: sampling")
    return JudgeSettings(template, data["policy"], data["response_prefix"], drawn)


def published_sampling(folder: Path) -> JudgeSampling:
    """The publisher's sampling options of a model: from judge.json, else from generation_config.json.

    Missing options are off, and a missing temperature is 1; `do_sample: false` is greedy.

    Raises:
        UserError: a file cannot be read, or has a value that engines refuse.
    """
    settings = read_settings(folder)
    if settings is not None and settings.sampling is not None:
        return settings.sampling
    file = folder / "generation_config.json"
    if not os.path.lexists(file):
        return JudgeSampling()
    data = _read(file)
    if not isinstance(data, dict):
        raise UserError(f"{file} is not a JSON object; restore the model's original file, or remove this one")
    names = {spec.name for spec in fields(JudgeSampling)}
    sampling = JudgeSampling.of({k: v for k, v in data.items() if k in names}, str(file))
    return replace(sampling, temperature=0.0) if data.get("do_sample") is False else sampling


def _read(file: Path) -> Any:
    try:
        return read_json(file)
    except UserError as error:
        raise UserError(f"{file} cannot be read as JSON: {error}") from None

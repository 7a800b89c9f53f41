# SPDX-License-Identifier: Apache-2.0
"""The models of an evaluation, with their prompts, verdict parsing and sampling.

Settings come from the model's entry in `evaluate.models`, else from the recipe's `judge` block, else from
the model's judge.json. A judge is thus prompted as in training unless the recipe says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.judge import (
    JudgeSampling,
    JudgeSettings,
    load_template,
    published_sampling,
    read_settings,
)
from reasongrm_nemo.judge.settings import DEFAULT_TEMPLATE


@dataclass(frozen=True)
class Setting:
    """How to sample answers in one pass over the tasks.

    Attributes:
        name: part of file and run names: `published`, or like `t0.6` and `t0.6_p0.9_k20`.
        samples: number of answers per task.
        sampling: sampling options; None: those of the model's publisher.
    """

    name: str
    samples: int
    sampling: JudgeSampling | None

    @property
    def words(self) -> str:
        """Description for people."""
        return "published" if self.sampling is None else self.sampling.words()

    @classmethod
    def of(cls, entry: DictConfig) -> Setting:
        """Read one entry of the recipe's `evaluate.settings`."""
        if entry.temperature is None:
            return cls("published", entry.samples, None)
        drawn = {name: entry[name] for name in ("temperature", "top_p", "top_k")}
        sampling = JudgeSampling.of(drawn, "evaluate.settings")
        name = f"t{sampling.temperature:g}"
        name += f"_p{sampling.top_p:g}" if sampling.top_p < 1 else ""
        return cls(name + (f"_k{sampling.top_k}" if sampling.top_k > 0 else ""), entry.samples, sampling)


@dataclass(frozen=True)
class Judge:
    """One model of an evaluation.

    Attributes:
        name: name in the recipe.
        folder: Hugging Face folder.
        given: the folder as the recipe names it.
        settings: prompt, verdict parsing, and the publisher's sampling options.
    """

    name: str
    folder: Path
    given: str
    settings: JudgeSettings

    def drawn(self, setting: Setting) -> tuple[JudgeSampling, int]:
        """Sampling options at a setting, and the number of samples: 1 if greedy, as all would be equal."""
        sampling = setting.sampling or self.settings.sampling or JudgeSampling()
        return sampling, 1 if sampling.temperature == 0 else setting.samples


def judges(cfg: DictConfig, inputs: dict[str, Path]) -> dict[str, Judge]:
    """The models of an evaluate recipe by name, in order.

    Raises:
        UserError: a judge.json or generation_config.json cannot be used.
    """
    return {
        name: Judge(name, folder, entry.hf_path, _settings(entry, cfg.judge, folder))
        for name, entry in cfg.evaluate.models.items()
        for folder in (inputs[f"models.{name}"],)
    }


def _settings(entry: DictConfig, block: DictConfig, folder: Path) -> JudgeSettings:
    kept = read_settings(folder) or JudgeSettings(load_template(DEFAULT_TEMPLATE))
    changes: dict[str, Any] = {}
    for name in ("template", "policy", "response_prefix"):
        value = entry.get(name) if entry.get(name) is not None else block[name]
        if value is not None:
            changes[name] = load_template(value) if name == "template" else value
    sampling = published_sampling(folder)
    if entry.get("sampling") is not None:
        sampling = JudgeSampling.of(OmegaConf.to_container(entry.sampling), "evaluate.models")
    return replace(kept, **changes, sampling=sampling)

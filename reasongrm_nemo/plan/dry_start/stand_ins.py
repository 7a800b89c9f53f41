# SPDX-License-Identifier: Apache-2.0
"""What takes the place of a stage's inputs and of its servers in a dry start."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from omegaconf import DictConfig

from reasongrm_nemo.data import JudgeTask, ReasoningPath, SftExample, write_jsonl
from reasongrm_nemo.models.tokenization import load_tokenizer
from reasongrm_nemo.processes import placement
from reasongrm_nemo.recipe.load import input_paths, is_model_input, resolve_path
from reasongrm_nemo.rollout import Completion, Prompt, RolloutSettings, Sampling
from reasongrm_nemo.rollout.server.settings import PYTHON_VARIABLE
from reasongrm_nemo.stage_kinds import kind_of

MODEL = "asset:tiny_judge"
"""Stands in for every model: its tokenizer is real, and any of them will do."""
_TASKS = 4
_RIGHT, _WRONG = "short.</think>[[A]]", "long and short.</think>[[B]]"


def write_inputs(recipe: DictConfig, folder: Path) -> dict[str, Path]:
    """A file or folder for each input of a recipe, by name; benchmarks have none and are left out."""
    model = resolve_path(MODEL, ".")
    tasks = [
        JudgeTask(f"t{i}", f"p{i}", "dry", [{"role": "user", "content": f"A or B? {i}"}], "A", "chosen_first")
        for i in range(_TASKS)
    ]
    made: dict[str, Path] = {}
    for name in input_paths(recipe):
        if is_model_input(name):
            made[name] = model
        elif name in ("tasks", "validation"):
            made[name] = folder / f"{name}.jsonl"
            write_jsonl(made[name], tasks)
        elif name == "paths":
            made[name] = folder / "paths.jsonl"
            write_jsonl(made[name], [_path(task, sample) for task in tasks for sample in range(2)])
        elif name == "examples":
            made[name] = folder / "examples.jsonl"
            turn = {"role": "assistant", "content": _RIGHT}
            write_jsonl(
                made[name], [SftExample(t.id, [*t.messages, turn], 0.5, 0.5, 0.5, "r_star") for t in tasks]
            )
        elif name == "source":
            made[name] = resolve_path("asset:examples/preferences.jsonl", ".")
    return made


def _path(task: JudgeTask, sample: int) -> ReasoningPath:
    right = sample == 0
    return ReasoningPath(
        task_id=task.id,
        sample=sample,
        text=_RIGHT if right else _WRONG,
        reasoning_tokens=4,
        answer_tokens=2,
        reasoning_prob_sum=3.0,
        answer_prob_sum=1.5,
        verdict="A" if right else "B",
        parse_status="ok",
        correct=right,
        finish_reason="stop",
        model="dry",
    )


class StandInPool:
    """Places and configures a recipe's servers as the real pool does, on nodes that do not exist.

    Attributes:
        commands: the command line of each server that would be started.
    """

    def __init__(self) -> None:
        self.commands: list[tuple[str, ...]] = []

    def get(self, recipe: DictConfig, model_dir: Path) -> StandInRollouts:
        """See ``RolloutPool.get``; the servers answer without a model."""
        nodes = (recipe.cluster.nodes if kind_of(recipe).on_policy else 1) + recipe.rollout.nodes
        job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": ",".join(f"node{i + 1}" for i in range(nodes))}
        python = os.environ.get(PYTHON_VARIABLE, sys.executable)
        with patch.dict(os.environ, {PYTHON_VARIABLE: python}):
            for spot in placement.find(recipe, job).spots:
                settings = RolloutSettings.from_config(recipe, spot.index, spot)
                arguments = settings.arguments(resolve_path(MODEL, "."), 8000)
                self.commands.append((str(spot), *arguments))
                settings.environment("token")
        return StandInRollouts(model_dir)


class StandInRollouts:
    """Answers every prompt, half of the samples right."""

    def __init__(self, model_dir: Path) -> None:
        tokenizer = load_tokenizer(model_dir)
        self._answers = [tokenizer.encode(text) for text in (_RIGHT, _WRONG)]

    def stream(
        self, prompts: Sequence[Prompt], sampling: Sampling, timeout_s: float | None = None
    ) -> Iterator[list[Completion]]:
        """See ``Rollouts.stream``."""
        for prompt in prompts:
            yield self.answer(prompt, sampling)

    def answer(self, prompt: Prompt, sampling: Sampling) -> list[Completion]:
        """The samples of one prompt."""
        chosen = [self._answers[sample % 2] for sample in range(sampling.n)]
        return [
            Completion(prompt.id, sample, list(ids), [-0.5] * len(ids), "stop")
            for sample, ids in enumerate(chosen)
        ]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a dry start has no {name} of a rollout server")

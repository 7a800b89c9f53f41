# SPDX-License-Identifier: Apache-2.0
"""Accuracy on held-out tasks during training, with the same servers and verdict parsing as rollouts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig

from reasongrm_nemo.data.records import JudgeTask
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.grpo.groups import GroupJudge, rollout_figures
from reasongrm_nemo.grpo.order import taken
from reasongrm_nemo.grpo.source import Part, RolloutSource
from reasongrm_nemo.rollout import Prompt, Sampling


class Validation:
    """Judges the same tasks with the same seeds at every validation.

    Args:
        tasks: held-out tasks.
        recipe: resolved recipe; ``grpo.validation`` sets samples and temperature.
        stop_tokens: token ids that end a response.
    """

    def __init__(self, tasks: Sequence[JudgeTask], recipe: DictConfig, stop_tokens: Sequence[int]) -> None:
        self.tasks, self.seed = tasks, recipe.seed
        options = recipe.grpo.validation
        self.sampling = Sampling(
            n=options.samples,
            max_tokens=recipe.rollout.max_response_tokens,
            temperature=options.temperature,
            stop_token_ids=tuple(stop_tokens),
        )

    @classmethod
    def of_recipe(
        cls,
        recipe: DictConfig,
        inputs: Mapping[str, Path],
        stop_tokens: Sequence[int],
        left_out: Collection[int] = (),
    ) -> Validation | None:
        """Build a Validation, or None if ``grpo.validation.every`` is 0; ``left_out``: see `order.taken`."""
        options = recipe.grpo.validation
        if not options.every:
            return None
        return cls(taken(inputs["validation"], 0, options.max_tasks, left_out), recipe, stop_tokens)

    def run(self, step: int, source: RolloutSource, judge: GroupJudge) -> dict[str, float]:
        """Compute accuracy, reward and further metrics of the servers' current weights; collective."""
        prompts = [
            Prompt(task.id, judge.prompt(task), derive_seed(self.seed, "grpo validation", task.id) % 2**31)
            for task in self.tasks
        ]
        completions = source.collect(Part(step, "validation", prompts, self.sampling))
        groups = [judge.group(*asked) for asked in zip(self.tasks, prompts, completions, strict=True)]
        figures = rollout_figures(groups)
        return {name: figures[name] for name in ("accuracy", "reward", "no_verdict", "response_tokens")}

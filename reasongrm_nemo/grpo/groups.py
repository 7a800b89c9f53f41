# SPDX-License-Identifier: Apache-2.0
"""From completions to rewards, groups and samples to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reasongrm_nemo.data.records import JudgeTask
from reasongrm_nemo.grpo.advantages import group_advantages, keep_group
from reasongrm_nemo.judge import parse_verdict
from reasongrm_nemo.megatron.micro_batches import Sample
from reasongrm_nemo.rewards import outcome_reward
from reasongrm_nemo.rollout import Completion


@dataclass(frozen=True)
class Group:
    """One task's K responses.

    Attributes:
        task: what was judged.
        prompt: its tokens.
        completions: K responses.
        texts: their texts.
        rewards: 1.0 or 0.0 each.
        verdicts: "A", "B" or None each.
    """

    task: JudgeTask
    prompt: list[int]
    completions: list[Completion]
    texts: list[str]
    rewards: list[float]
    verdicts: list[str | None]

    @property
    def kept(self) -> bool:
        """Whether the group is trained on: some right and some wrong, by the raw outcome."""
        return keep_group([reward == 1.0 for reward in self.rewards])


def judge_group(
    task: JudgeTask, prompt: list[int], completions: list[Completion], texts: list[str], policy: str
) -> Group:
    """Read the verdicts and reward them by the outcome (section 3.2)."""
    verdicts: list[str | None] = [parse_verdict(text, policy).verdict for text in texts]
    rewards = [outcome_reward(verdict, task.label) for verdict in verdicts]
    return Group(task, prompt, completions, texts, rewards, verdicts)


def to_samples(groups: Sequence[Group], std: bool, eps: float) -> list[Sample]:
    """The responses of ``groups`` with their advantages and the rollout's log-probs."""
    rewards = [reward for group in groups for reward in group.rewards]
    ids = [index for index, group in enumerate(groups) for _ in group.rewards]
    advantages = group_advantages(rewards, ids, std=std, eps=eps).tolist()
    responses = [(group.prompt, completion) for group in groups for completion in group.completions]
    return [
        Sample(
            tokens=(*prompt, *completion.token_ids),
            prompt_length=len(prompt),
            advantage=advantage,
            per_token={"rollout": tuple(completion.log_probs)},
        )
        for (prompt, completion), advantage in zip(responses, advantages, strict=True)
    ]


def rollout_figures(groups: Sequence[Group]) -> dict[str, float | int]:
    """What a step's line says of its rollouts."""
    completions = [completion for group in groups for completion in group.completions]
    verdicts = [verdict for group in groups for verdict in group.verdicts]
    count = len(completions)
    return {
        "reward": sum(sum(group.rewards) for group in groups) / count,
        "kept": sum(group.kept for group in groups),
        "groups": len(groups),
        "response_tokens": sum(len(c.token_ids) for c in completions) / count,
        "truncated": sum(c.finish_reason == "length" for c in completions) / count,
        "no_verdict": sum(verdict is None for verdict in verdicts) / count,
    }

# SPDX-License-Identifier: Apache-2.0
"""Turns completions into rewarded groups, and groups into training samples.

`Group.kept` says whether a group is trained on; `trainer.GRPOTrainer.run_step` skips the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from omegaconf import DictConfig

from reasongrm_nemo.data.records import JudgeTask
from reasongrm_nemo.grpo.advantages import group_advantages, keep_group
from reasongrm_nemo.grpo.loss import sample_weights
from reasongrm_nemo.megatron.micro_batches import Sample
from reasongrm_nemo.models.tokenization import JudgeTokenizer, opens_think, prompt_ids
from reasongrm_nemo.rewards import Rewarder, overlong_penalty
from reasongrm_nemo.rollout import Completion, Prompt
from reasongrm_nemo.rollout.reading import CompletionReader, Reading


@dataclass(frozen=True)
class Group:
    """The K responses to one task.

    Attributes:
        task: the judging task.
        prompt: prompt token ids.
        completions: K responses.
        readings: the verdict parsed from each response.
        rewards: the reward of each response, by ``grpo.reward``.
        correct: whether each response is right; None where the reward does not define correctness.
    """

    task: JudgeTask
    prompt: list[int]
    completions: list[Completion]
    readings: list[Reading]
    rewards: list[float]
    correct: list[bool | None]

    @property
    def kept(self) -> bool:
        """Whether to train on the group: right and wrong responses, or, if unknown, different rewards."""
        known = [right for right in self.correct if right is not None]
        if len(known) < len(self.correct):
            return min(self.rewards) < max(self.rewards)
        return keep_group(known)

    @property
    def right(self) -> list[bool]:
        """Whether each response is right; by its verdict where the reward does not define correctness."""
        pairs = zip(self.correct, self.readings, strict=True)
        return [reading.correct if right is None else right for right, reading in pairs]


class GroupJudge:
    """Turns tasks into prompts, and their completions into rewarded groups.

    Args:
        tokenizer: the policy's tokenizer.
        recipe: recipe whose ``judge`` block sets prompt and parsing, and ``grpo.reward`` the reward.
    """

    def __init__(self, tokenizer: JudgeTokenizer, recipe: DictConfig) -> None:
        self._tokenizer, self._prefix = tokenizer, recipe.judge.response_prefix
        self._reward = Rewarder(recipe.grpo.reward)
        self._reader = CompletionReader(tokenizer, recipe.judge.policy, opens_think(tokenizer, self._prefix))

    def prompt(self, task: JudgeTask) -> list[int]:
        """Prompt token ids of a task."""
        return prompt_ids(self._tokenizer, task.messages, self._prefix)

    def group(self, task: JudgeTask, prompt: Prompt, completions: list[Completion]) -> Group:
        """Parse the responses and reward them as ``grpo.reward`` says (section 3.2: by outcome)."""
        readings = [self._reader.read(completion, task) for completion in completions]
        rewards = [self._reward(reading, task) for reading in readings]
        values, correct = [reward.value for reward in rewards], [reward.correct for reward in rewards]
        return Group(task, prompt.token_ids, completions, readings, values, correct)


def shaped_rewards(groups: Sequence[Group], cfg: DictConfig, limit: int) -> list[float]:
    """Rewards of all responses, with the overlong penalty of the recipe added.

    Args:
        groups: groups that were kept; the penalty does not affect which are.
        cfg: the recipe's ``grpo`` block.
        limit: longest allowed response, in tokens.
    """
    overlong = cfg.overlong
    return [
        reward + overlong.penalty * overlong_penalty(len(completion.token_ids), limit, overlong.buffer)
        for group in groups
        for reward, completion in zip(group.rewards, group.completions, strict=True)
    ]


def to_samples(groups: Sequence[Group], rewards: Sequence[float], cfg: DictConfig) -> list[Sample]:
    """The responses of ``groups`` with their advantages and the rollout's log-probs.

    Args:
        groups: groups to train on.
        rewards: reward of each response, in the order of ``groups``.
        cfg: the recipe's ``grpo`` block.

    Returns:
        Samples of weight 1, or 0 for a truncated response if ``grpo.mask_truncated`` is set.
    """
    options = cfg.advantage
    ids = [index for index, group in enumerate(groups) for _ in group.rewards]
    advantages = group_advantages(
        rewards, ids, std=options.std, eps=options.eps, baseline=options.baseline
    ).tolist()
    responses = [(group.prompt, completion) for group in groups for completion in group.completions]
    return [
        Sample(
            tokens=(*prompt, *completion.token_ids),
            prompt_length=len(prompt),
            advantage=advantage,
            per_token={"rollout": tuple(completion.log_probs)},
            weight=0.0 if cfg.mask_truncated and completion.finish_reason == "length" else 1.0,
        )
        for (prompt, completion), advantage in zip(responses, advantages, strict=True)
    ]


def weighed(samples: Sequence[Sample], aggregation: str, limit: int) -> list[Sample]:
    """The samples of one optimizer step with their per-token loss weights (see ``sample_weights``)."""
    lengths = [sample.response_length for sample in samples]
    counted = [sample.weight > 0 for sample in samples]
    weights = sample_weights(lengths, counted, aggregation, limit)
    return [replace(sample, weight=weight) for sample, weight in zip(samples, weights, strict=True)]


def rollout_figures(groups: Sequence[Group]) -> dict[str, float | int]:
    """Rollout metrics of a step, for its line in metrics.jsonl."""
    completions = [completion for group in groups for completion in group.completions]
    readings = [reading for group in groups for reading in group.readings]
    count = len(completions)
    return {
        "reward": sum(sum(group.rewards) for group in groups) / count,
        "accuracy": sum(sum(group.right) for group in groups) / count,
        "kept": sum(group.kept for group in groups),
        "groups": len(groups),
        "response_tokens": sum(len(c.token_ids) for c in completions) / count,
        "truncated": sum(c.finish_reason == "length" for c in completions) / count,
        "no_verdict": sum(reading.verdict is None for reading in readings) / count,
    }

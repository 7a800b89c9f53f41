# SPDX-License-Identifier: Apache-2.0
"""From completions to rewards, groups and samples to train on."""

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
    """One task's K responses.

    Attributes:
        task: what was judged.
        prompt: its tokens.
        completions: K responses.
        readings: what they say.
        rewards: one each, by ``grpo.reward``.
        correct: whether each is right; None where the reward does not tell.
    """

    task: JudgeTask
    prompt: list[int]
    completions: list[Completion]
    readings: list[Reading]
    rewards: list[float]
    correct: list[bool | None]

    @property
    def kept(self) -> bool:
        """Whether the group is trained on: not all right or all wrong; where not told, rewards differ."""
        known = [right for right in self.correct if right is not None]
        if len(known) < len(self.correct):
            return min(self.rewards) < max(self.rewards)
        return keep_group(known)

    @property
    def right(self) -> list[bool]:
        """Whether each response is right; by its verdict where the reward does not tell."""
        pairs = zip(self.correct, self.readings, strict=True)
        return [reading.correct if right is None else right for right, reading in pairs]


class GroupJudge:
    """Turns tasks into prompts, and their completions into rewarded groups.

    Args:
        tokenizer: of the policy.
        recipe: its ``judge`` block says how to ask and how to read, ``grpo.reward`` what a response is worth.
    """

    def __init__(self, tokenizer: JudgeTokenizer, recipe: DictConfig) -> None:
        self._tokenizer, self._prefix = tokenizer, recipe.judge.response_prefix
        self._reward = Rewarder(recipe.grpo.reward)
        self._reader = CompletionReader(tokenizer, recipe.judge.policy, opens_think(tokenizer, self._prefix))

    def prompt(self, task: JudgeTask) -> list[int]:
        """The tokens a judge is asked with."""
        return prompt_ids(self._tokenizer, task.messages, self._prefix)

    def group(self, task: JudgeTask, prompt: Prompt, completions: list[Completion]) -> Group:
        """Read the responses and reward them: by the outcome (section 3.2), or as the recipe says."""
        readings = [self._reader.read(completion, task) for completion in completions]
        rewards = [self._reward(reading, task) for reading in readings]
        values, correct = [reward.value for reward in rewards], [reward.correct for reward in rewards]
        return Group(task, prompt.token_ids, completions, readings, values, correct)


def shaped_rewards(groups: Sequence[Group], cfg: DictConfig, limit: int) -> list[float]:
    """The rewards of all responses with what the recipe adds to the outcome.

    Args:
        groups: kept by what is right; what is added here has no say in that.
        cfg: the recipe's ``grpo``.
        limit: the longest response, in tokens.
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
        groups: what is trained on.
        rewards: of each response, in their order.
        cfg: the recipe's ``grpo``.

    Returns:
        Samples whose weight is 1, or 0 for a truncated response that the recipe leaves out of the loss.
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
    """The samples of one optimizer step with what their tokens weigh in its loss (see ``sample_weights``)."""
    lengths = [sample.response_length for sample in samples]
    counted = [sample.weight > 0 for sample in samples]
    weights = sample_weights(lengths, counted, aggregation, limit)
    return [replace(sample, weight=weight) for sample, weight in zip(samples, weights, strict=True)]


def rollout_figures(groups: Sequence[Group]) -> dict[str, float | int]:
    """What a step's line says of its rollouts."""
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

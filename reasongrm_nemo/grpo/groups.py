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
from reasongrm_nemo.rewards import outcome_reward, overlong_penalty
from reasongrm_nemo.rollout import Completion, Prompt
from reasongrm_nemo.rollout.reading import Reader
from reasongrm_nemo.tokenization import JudgeTokenizer, opens_think, prompt_ids


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


class Judge:
    """Turns tasks into prompts, and their completions into rewarded groups.

    Args:
        tokenizer: of the policy.
        recipe: its ``judge`` block says how to ask and how to read.
    """

    def __init__(self, tokenizer: JudgeTokenizer, recipe: DictConfig) -> None:
        self._tokenizer, self._prefix = tokenizer, recipe.judge.response_prefix
        self._reader = Reader(tokenizer, recipe.judge.policy, opens_think(tokenizer, self._prefix))

    def prompt(self, task: JudgeTask) -> list[int]:
        """The tokens a judge is asked with."""
        return prompt_ids(self._tokenizer, task.messages, self._prefix)

    def group(self, task: JudgeTask, prompt: Prompt, completions: list[Completion]) -> Group:
        """Read the verdicts and reward them by the outcome (section 3.2)."""
        readings = [self._reader.read(completion, task) for completion in completions]
        verdicts: list[str | None] = [reading.verdict for reading in readings]
        rewards = [outcome_reward(verdict, task.label) for verdict in verdicts]
        texts = [reading.text for reading in readings]
        return Group(task, prompt.token_ids, completions, texts, rewards, verdicts)


def shaped_rewards(groups: Sequence[Group], cfg: DictConfig, limit: int) -> list[float]:
    """The rewards of all responses with what the recipe adds to the outcome.

    Args:
        groups: kept by their outcome; what is added here has no say in that.
        cfg: the recipe's ``grpo``.
        limit: the longest response, in tokens.
    """
    own = cfg.overlong
    return [
        reward + own.penalty * overlong_penalty(len(completion.token_ids), limit, own.buffer)
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
    own = cfg.advantage
    ids = [index for index, group in enumerate(groups) for _ in group.rewards]
    advantages = group_advantages(rewards, ids, std=own.std, eps=own.eps, baseline=own.baseline).tolist()
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

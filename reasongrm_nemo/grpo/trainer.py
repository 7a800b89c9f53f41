# SPDX-License-Identifier: Apache-2.0
"""The training loop, in the manner of NeMo-Aligner's trainers."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from nemo_aligner.utils.train_utils import clip_gradients
from omegaconf import DictConfig

from reasongrm_nemo.data.records import JudgeTask
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.errors import StageFailed
from reasongrm_nemo.grpo.groups import (
    Group,
    judge_group,
    rollout_figures,
    shaped_rewards,
    to_samples,
    weighed,
)
from reasongrm_nemo.grpo.loss import kl_estimate
from reasongrm_nemo.grpo.order import TaskOrder
from reasongrm_nemo.grpo.source import RolloutSource
from reasongrm_nemo.megatron.checkpoints import Checkpoints
from reasongrm_nemo.megatron.metrics import MetricsLog
from reasongrm_nemo.megatron.micro_batches import Sample, share
from reasongrm_nemo.megatron.session import Session
from reasongrm_nemo.rollout import Prompt, Sampling
from reasongrm_nemo.tokenization import JudgeTokenizer, prompt_ids

_SKIPS = 3


class GRPOTrainer:
    """Group relative policy optimisation with the outcome reward (sections 3.2 and 3.4).

    Args:
        session: the actor with its optimizer on this rank.
        recipe: resolved recipe of stage ``grpo``.
        tasks: what to judge.
        tokenizer: of the policy.
        stop_tokens: what ends a response.
        source: rollouts and refits.
        checkpoints: where to save.
        metrics: one line a step.
    """

    def __init__(
        self,
        session: Session,
        recipe: DictConfig,
        tasks: Sequence[JudgeTask],
        tokenizer: JudgeTokenizer,
        stop_tokens: Sequence[int],
        source: RolloutSource,
        checkpoints: Checkpoints,
        metrics: MetricsLog,
    ) -> None:
        self.actor, self.optimizer, self.scheduler = session.model, session.optimizer, session.scheduler
        self.recipe, self.cfg = recipe, recipe.grpo
        self.tokenizer, self.stop_tokens = tokenizer, tuple(stop_tokens)
        self.source, self.checkpoints, self.metrics = source, checkpoints, metrics
        self.order = TaskOrder(tasks, self.cfg.prompts_per_step, recipe.seed, self.cfg.shuffle)
        self.sampling = Sampling(
            n=self.cfg.samples_per_prompt,
            max_tokens=recipe.rollout.max_response_tokens,
            temperature=recipe.rollout.temperature,
            top_p=recipe.rollout.top_p,
            top_k=recipe.rollout.top_k,
            stop_token_ids=self.stop_tokens,
        )
        self.step = 0
        self.taken = 0  # tasks rolled out so far, over all passes
        self.skipped = 0

    def fit(self) -> None:
        """Train to the recipe's last step, from the newest checkpoint on.

        Raises:
            RolloutsLost: the rollout server could not be kept; a checkpoint was saved.
            StageFailed: the loss was not a number several times in a row; a checkpoint was saved.
        """
        if self.cfg.kl_coefficient > 0:
            self.actor.keep_reference()
        if state := self.checkpoints.load_latest(self.actor, self.scheduler):
            self.step = state["step"]
            self.taken = state["taken"]
        if state or self.recipe.model.megatron_path:
            self.source.push()  # the server began with the Hugging Face folder's weights
        self.metrics.resume(self.step)
        while self.step < self.cfg.steps:
            try:
                self.run_step()
            except StageFailed:
                self.save()
                raise
            if self.step % self.cfg.save_every == 0 or self.step == self.cfg.steps:
                self.save()

    def run_step(self) -> None:
        """Roll out, reward, train on the groups that teach something, refit."""
        began = time.monotonic()
        groups = self.rollouts()
        rolled_out = time.monotonic()
        figures = rollout_figures(groups)
        kept = [group for group in groups if group.kept][: self.cfg.prompts_per_step]
        figures |= self.train(kept) if kept else self.compare(groups[:1])
        trained = time.monotonic()
        if self.step + 1 < self.cfg.steps:
            self.source.push()
        self.step += 1
        self.taken += len(groups)
        tokens = figures["response_tokens"] * figures["groups"] * self.cfg.samples_per_prompt
        seconds = {
            "rollout_s": rolled_out - began,
            "train_s": trained - rolled_out,
            "refit_s": time.monotonic() - trained,
        }
        seconds |= self.actor.timers.take()
        figures |= {"tokens_per_second": tokens / seconds["rollout_s"]} | seconds
        self.metrics.log(self.step, figures)

    def rollouts(self) -> list[Group]:
        """This step's groups, the same on every rank.

        With ``refill_rounds`` more tasks are rolled out while too few groups are kept (dynamic sampling,
        Yu et al. 2025, section 3.2), so often at most.
        """
        groups = self._roll_out(0)
        for part in range(1, self.cfg.refill_rounds + 1):
            if sum(group.kept for group in groups) >= self.cfg.prompts_per_step:
                break
            groups += self._roll_out(part)
        return groups

    def _roll_out(self, part: int) -> list[Group]:
        tasks = self.order.take(self.taken + part * self.cfg.prompts_per_step)
        tokens = [
            prompt_ids(self.tokenizer, task.messages, self.recipe.judge.response_prefix) for task in tasks
        ]
        first = part * len(tasks)
        prompts = [
            # a small task file comes round within one step; the place keeps the ids apart
            Prompt(f"{place}:{task.id}", ids, self._rollout_seed(place, task))
            for place, (task, ids) in enumerate(zip(tasks, tokens, strict=True), first)
        ]
        completions = self.source.collect(self.step, part, prompts, self.sampling)
        return [
            judge_group(task, ids, group, [self._text(c.token_ids) for c in group], self.recipe.judge.policy)
            for task, ids, group in zip(tasks, tokens, completions, strict=True)
        ]

    def train(self, groups: Sequence[Group]) -> dict[str, Any]:
        """``optimizer_steps`` updates on the kept groups, each on its share of them."""
        samples = self._samples(groups)
        if self.cfg.kl_coefficient > 0 and self.cfg.kl_in == "reward":
            samples = self._samples(groups, self._kl_of(samples))
        parts = [samples[i :: self.cfg.optimizer_steps] for i in range(self.cfg.optimizer_steps)]
        batches = [self._prepare(part) for part in parts if part]
        self.actor.prepare_for_training()
        metrics = [self.train_batch(batch) for batch in batches]
        self.actor.finish_training()
        # the first update is the one whose log-probs are those of the policy that sampled
        return metrics[-1] | {
            name: metrics[0][name] for name in ("log_prob_error_mean", "log_prob_error_max")
        }

    def train_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One optimizer step; none where the loss or a gradient is not a number.

        Raises:
            StageFailed: that was so three times in a row.
        """
        self.optimizer.zero_grad()
        self.actor.prepare_for_training_step()
        loss, metrics = self.actor.get_loss_and_metrics(batch, forward_only=False)
        self.actor.finish_training_step()
        with self.actor.timers("optimizer"):
            norm = clip_gradients(self.actor, self.cfg.optim.clip_grad)
        figures = metrics | {"grad_norm": None if norm is None else float(norm)}
        figures |= {"lr": self.optimizer.param_groups[0]["lr"]}
        if math.isfinite(loss) and (norm is None or math.isfinite(norm)):
            with self.actor.timers("optimizer"):
                self.optimizer.step()
            self.skipped = 0
        else:
            self.skipped += 1
            if self.skipped == _SKIPS:
                raise StageFailed(
                    f"step {self.step + 1}: the loss or its gradient was not a number {_SKIPS} times in a row"
                )
        self.scheduler.step()
        return figures | {"skipped": self.skipped}

    def compare(self, groups: Sequence[Group]) -> dict[str, Any]:
        """Log-probs against the rollout's where a step has nothing to train on."""
        _, metrics = self.actor.get_loss_and_metrics(self._share(self._samples(groups)), forward_only=True)
        return {name: metrics[name] for name in ("log_prob_error_mean", "log_prob_error_max")}

    def save(self) -> None:
        """A checkpoint at the present step."""
        with self.actor.timers("checkpoint"):  # in the next step's line
            self.checkpoints.save(self.step, self.actor, self.scheduler, self.state_dict())

    def state_dict(self) -> dict[str, int]:
        """The trainer's own state."""
        return {"step": self.step, "taken": self.taken}

    def _samples(self, groups: Sequence[Group], kl: Sequence[float] | None = None) -> list[Sample]:
        """The groups' responses with their advantages, from rewards less the KL term where it is given."""
        rewards = shaped_rewards(groups, self.cfg, self.sampling.max_tokens)
        if kl is not None:
            rewards = [r - self.cfg.kl_coefficient * k for r, k in zip(rewards, kl, strict=True)]
        return to_samples(groups, rewards, self.cfg)

    def _kl_of(self, samples: Sequence[Sample]) -> list[float]:
        """The KL estimate of each response, summed over its tokens; the same on every rank."""
        mine = self._mine(samples)
        own = [samples[i] for i in mine]
        policy, reference = self.actor.get_inference_log_probs(own), self.actor.get_init_policy_logprobs(own)
        sums = {
            i: kl_estimate(torch.tensor(p), torch.tensor(r), self.cfg.kl_estimator).sum().item()
            for i, p, r in zip(mine, policy, reference, strict=True)
        }
        gathered: list[dict[int, float]] = [{}] * parallel_state.get_data_parallel_world_size()
        dist.all_gather_object(gathered, sums, group=parallel_state.get_data_parallel_group())
        known = {i: value for part in gathered for i, value in part.items()}
        return [known[i] for i in range(len(samples))]

    def _prepare(self, samples: list[Sample]) -> dict[str, Any]:
        """This rank's share, with the log-probs that must be known before the first update."""
        batch = self._share(samples)
        if self.cfg.optimizer_steps > 1:
            batch["samples"] = _with(
                batch["samples"], "old", self.actor.get_inference_log_probs(batch["samples"])
            )
        if self.cfg.kl_coefficient > 0 and self.cfg.kl_in == "loss":
            scored = self.actor.get_init_policy_logprobs(batch["samples"])
            batch["samples"] = _with(batch["samples"], "reference", scored)
        return batch

    def _share(self, samples: list[Sample]) -> dict[str, Any]:
        samples = weighed(samples, self.cfg.loss_aggregation, self.sampling.max_tokens)
        return {
            "samples": [samples[i] for i in self._mine(samples)],
            "tokens": sum(sample.response_length for sample in samples),
        }

    def _mine(self, samples: Sequence[Sample]) -> list[int]:
        return share(
            [len(sample.tokens) for sample in samples],
            parallel_state.get_data_parallel_rank(),
            parallel_state.get_data_parallel_world_size(),
        )

    def _rollout_seed(self, place: int, task: JudgeTask) -> int:
        return derive_seed(self.recipe.seed, f"grpo rollout {place}", task.id, self.step) & 0x7FFFFFFF

    def _text(self, token_ids: list[int]) -> str:
        if token_ids and token_ids[-1] in self.stop_tokens:
            token_ids = token_ids[:-1]
        return self.tokenizer.decode(token_ids)


def _with(samples: Sequence[Sample], name: str, values: Sequence[Sequence[float]]) -> list[Sample]:
    return [
        replace(s, per_token=s.per_token | {name: tuple(v)}) for s, v in zip(samples, values, strict=True)
    ]

# SPDX-License-Identifier: Apache-2.0
"""GRPO's training loop, modelled on NeMo-Aligner's trainers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from omegaconf import DictConfig

from reasongrm_nemo.data.records import JudgeTask
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.errors import StageFailed
from reasongrm_nemo.grpo.agreement import Agreement, ages
from reasongrm_nemo.grpo.groups import Group, GroupJudge, rollout_figures, shaped_rewards, to_samples, weighed
from reasongrm_nemo.grpo.loss import kl_estimate
from reasongrm_nemo.grpo.order import TaskOrder
from reasongrm_nemo.grpo.source import Part, RolloutSource
from reasongrm_nemo.grpo.validation import Validation
from reasongrm_nemo.megatron.balance import costs, share
from reasongrm_nemo.megatron.checkpoints import Checkpoints
from reasongrm_nemo.megatron.early_stop import EarlyStop
from reasongrm_nemo.megatron.finite_steps import FiniteSteps
from reasongrm_nemo.megatron.metrics import MetricsLog
from reasongrm_nemo.megatron.micro_batches import Sample
from reasongrm_nemo.megatron.session import Session
from reasongrm_nemo.models.tokenization import JudgeTokenizer
from reasongrm_nemo.rollout import Prompt, Sampling

# metrics of the sampling policy: computed before the first update, and in steps without an update
_OF_THE_SAMPLER = ("entropy", "log_prob_error_mean", "log_prob_error_max", "warning")


class GRPOTrainer:
    """Group relative policy optimisation with the outcome reward (sections 3.2 and 3.4).

    Args:
        session: the actor with its optimizer on this rank.
        recipe: resolved recipe of stage ``grpo``.
        tasks: training tasks.
        tokenizer: the policy's tokenizer.
        stop_tokens: token ids that end a response.
        source: rollouts and refits.
        checkpoints: saves and loads checkpoints.
        metrics: log with one line per step.
        validation: measures accuracy on held-out tasks; None if ``grpo.validation`` is off.
        reason_to_stop: takes the last step's seconds; returns why to stop now, or None (see ``TrainingRun``).
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
        validation: Validation | None,
        reason_to_stop: Callable[[float], str | None],
    ) -> None:
        self.actor, self.optimizer, self.scheduler = session.model, session.optimizer, session.scheduler
        self.recipe, self.cfg, self.architecture = recipe, recipe.grpo, session.architecture
        self.judge = GroupJudge(tokenizer, recipe)
        self.source, self.checkpoints, self.metrics = source, checkpoints, metrics
        self.validation, self.reason_to_stop = validation, reason_to_stop
        self.agreement = Agreement(recipe)
        self.early_stop = EarlyStop(self.cfg.validation.patience)
        self.order = TaskOrder(tasks, self.cfg.prompts_per_step, recipe.seed, self.cfg.shuffle)
        self.sampling = Sampling(
            n=self.cfg.samples_per_prompt,
            max_tokens=recipe.rollout.max_response_tokens,
            temperature=recipe.rollout.temperature,
            top_p=recipe.rollout.top_p,
            top_k=recipe.rollout.top_k,
            stop_token_ids=tuple(stop_tokens),
        )
        self.step = 0
        self.taken = 0  # tasks rolled out so far, over all passes
        self.asked = 0  # tasks rolled out in this step
        self.age: int | None = None  # age in steps of the oldest weights that sampled for this step
        self.finite = FiniteSteps()

    def fit(self) -> str | None:
        """Train from the newest checkpoint to the recipe's last step.

        Returns:
            Why the run stopped early, or None; a checkpoint was saved.

        Raises:
            RolloutsLost: a rollout server was lost and could not be restarted; a checkpoint was saved.
            StageFailed: the loss was not finite several times in a row, or trainer and sampler disagree; a
                checkpoint was saved.
        """
        self._resume()
        reason = None
        while self.step < self.cfg.steps and not self.early_stop.reached() and reason is None:
            began = time.monotonic()
            try:
                self.run_step()
                self.finite.check(self.step)
                score = self.validate() if self._due(self.cfg.validation.every) else None
            except StageFailed:
                self.save()
                self.checkpoints.finish()
                raise
            reason = self.reason_to_stop(time.monotonic() - began)
            if self._due(self.cfg.save_every) or self.early_stop.reached() or reason:
                self.save(score)
            else:
                self.checkpoints.poll()
        self.checkpoints.finish()
        return reason

    def _resume(self) -> None:
        if self.cfg.kl_coefficient > 0:
            self.actor.keep_reference()
        if state := self.checkpoints.load_latest(self.actor, self.scheduler):
            self.step, self.taken = state["step"], state["taken"]
            self.early_stop.load_state_dict(state["early_stop"])
        self.actor.finish_training()  # offloaded states make room for the push
        if state or self.recipe.model.megatron_path:
            self.source.push(self.step)  # servers start with the Hugging Face folder's weights
        self.metrics.resume(self.step)

    def _due(self, every: int) -> bool:
        """Whether a task that runs every ``every`` steps, and after the last, is due now (0 = never)."""
        return every > 0 and (self.step % every == 0 or self.step == self.cfg.steps)

    def validate(self) -> float:
        """Measure accuracy on the held-out tasks under the weights just pushed."""
        assert self.validation is not None
        figures = self.validation.run(self.step, self.source, self.judge)
        self.early_stop.note(figures["accuracy"])
        self.metrics.log_validation(self.step, figures | {"best": self.early_stop.best})
        return figures["accuracy"]

    def run_step(self) -> None:
        """Roll out, reward, train on the kept groups, refit."""
        began = time.monotonic()
        groups = self.rollouts()
        self._look_ahead()
        rolled_out = time.monotonic()
        # after the last step, only validation still uses the servers
        pushes = self.step + 1 < self.cfg.steps or self.validation is not None
        if self.recipe.rollout.sleep:
            self.source.sleep()
        elif pushes and not self.cfg.max_lag:
            self.source.pause()
        figures: dict[str, Any] = rollout_figures(groups) | {"stragglers": self.asked - len(groups)}
        self.age = max(ages((c for g in groups for c in g.completions), self.step), default=None)
        figures["rollout_age"] = self.age
        self.agreement.check_age(self.step + 1, self.age)
        kept = [group for group in groups if group.kept]
        # refills may yield more groups than a step trains on; the task order alone decides which stay
        spare, kept = len(kept[self.cfg.prompts_per_step :]), kept[: self.cfg.prompts_per_step]
        figures |= {"kept": len(kept), "spare_groups": spare} | (
            self.train(kept) if kept else self.compare(groups[:1])
        )
        trained = time.monotonic()
        # count the step before the push, which may fail: the resumed run must not train on this batch again
        self.step += 1
        self.taken += self.asked
        self._schedule()
        try:
            if pushes:
                self.source.push(self.step)
        finally:
            tokens = figures["response_tokens"] * figures["groups"] * self.cfg.samples_per_prompt
            seconds = {
                "rollout_s": rolled_out - began,
                "train_s": trained - rolled_out,
                "refit_s": time.monotonic() - trained,
            }
            seconds |= self.actor.timers.take()
            figures["servers_lost"] = self.source.losses()
            figures |= {"tokens_per_second": tokens / seconds["rollout_s"]} | seconds
            self.metrics.log(self.step, figures)

    def _schedule(self) -> None:
        """Advance the learning-rate schedule to the current step, past steps without an update too."""
        while self.scheduler.last_epoch < self.step * self.cfg.optimizer_steps:
            self.scheduler.step()

    def rollouts(self) -> list[Group]:
        """This step's groups, the same on every rank, less those past ``rollout.straggler_timeout_s``.

        While too few groups are kept, up to ``refill_rounds`` further sets of tasks are rolled out (dynamic
        sampling, Yu et al. 2025, section 3.2).
        """
        self.asked = 0
        groups = self._roll_out(0)
        for part in range(1, self.cfg.refill_rounds + 1):
            if sum(group.kept for group in groups) >= self.cfg.prompts_per_step:
                break
            groups += self._roll_out(part)
        return groups

    def _roll_out(self, part: int) -> list[Group]:
        tasks, asked = self._questions(self.step, part)
        completions = self.source.collect(asked)
        self.asked += len(tasks)
        answered = zip(tasks, asked.prompts, completions, strict=True)
        return [self.judge.group(*answer) for answer in answered if answer[2]]

    def _look_ahead(self) -> None:
        """Start rollouts of the next ``max_lag`` steps before this step trains."""
        last = min(self.step + self.cfg.max_lag, self.cfg.steps - 1)
        for step in range(self.step + 1, last + 1):
            self.source.begin(self._questions(step, 0)[1])

    def _questions(self, step: int, part: int) -> tuple[list[JudgeTask], Part]:
        """Tasks and prompts of a part of this step or a later one."""
        ahead = step - self.step + part  # counted in parts: max_lag and refill_rounds exclude each other
        tasks = self.order.take(self.taken + ahead * self.cfg.prompts_per_step)
        prompts = [
            # a small task file can repeat within one step; the position keeps the ids unique
            Prompt(f"{place}:{task.id}", self.judge.prompt(task), self._rollout_seed(step, place, task))
            for place, task in enumerate(tasks, part * len(tasks))
        ]
        return tasks, Part(step, part, prompts, self.sampling, self.recipe.rollout.straggler_timeout_s)

    def train(self, groups: Sequence[Group]) -> dict[str, Any]:
        """Run ``optimizer_steps`` updates, each on its share of the kept groups' samples."""
        samples, of_step = self._samples(groups), {}
        if self.cfg.kl_coefficient > 0 and self.cfg.kl_in == "reward":
            kl = self._kl_of(samples)
            of_step["kl"] = sum(kl) / sum(sample.response_length for sample in samples)
            samples = self._samples(groups, kl)
        parts = [samples[i :: self.cfg.optimizer_steps] for i in range(self.cfg.optimizer_steps)]
        batches = [self._prepare(part) for part in parts if part]
        self.actor.prepare_for_training()
        metrics = [self.train_batch(batch, first=batch is batches[0]) for batch in batches]
        self.actor.finish_training()
        of_step["skipped"] = max(figures["skipped"] for figures in metrics)
        # only the first update's log-probs come from the policy that sampled
        return (
            metrics[-1] | {name: metrics[0][name] for name in _OF_THE_SAMPLER if name in metrics[0]} | of_step
        )

    def train_batch(self, batch: dict[str, Any], first: bool) -> dict[str, Any]:
        """Run one optimizer step; skip the update if the loss or a gradient is not finite.

        Args:
            batch: from ``_prepare``.
            first: whether this is the step's first update, before which the log-prob gap is checked.
        """
        self.optimizer.zero_grad()
        self.actor.prepare_for_training_step()
        loss, metrics = self.actor.get_loss_and_metrics(batch, forward_only=False)
        if first:
            metrics |= self._gap(metrics)
        self.actor.finish_training_step()
        figures = metrics | {"lr": self.optimizer.param_groups[0]["lr"]}
        with self.actor.timers("optimizer"):
            norm = self.actor.clip_gradients(self.cfg.optim.clip_grad)
            self.finite.step(self.optimizer, loss, norm)
        self.scheduler.step()
        return figures | {"grad_norm": norm, "skipped": self.finite.skipped}

    def compare(self, groups: Sequence[Group]) -> dict[str, Any]:
        """Compare log-probs with the sampler's in a step that has nothing to train on."""
        _, metrics = self.actor.get_loss_and_metrics(self._share(self._samples(groups)), forward_only=True)
        self.actor.finish_training()
        metrics |= self._gap(metrics)
        return {name: metrics[name] for name in _OF_THE_SAMPLER if name in metrics}

    def _gap(self, metrics: dict[str, Any]) -> dict[str, str]:
        warning = self.agreement.check_gap(self.step + 1, metrics, self.age)
        return {"warning": warning} if warning else {}

    def save(self, score: float | None = None) -> None:
        """Save a checkpoint of the current step with its validation score."""
        with self.actor.timers("checkpoint"):  # logged with the next step
            self.actor.prepare_for_training()  # optimizer states are saved from the GPU
            self.checkpoints.save(self.step, self.actor, self.scheduler, self.state_dict(), score)
            self.actor.finish_training()

    def state_dict(self) -> dict[str, Any]:
        """The trainer's state, without model and optimizer."""
        return {"step": self.step, "taken": self.taken, "early_stop": self.early_stop.state_dict()}

    def _samples(self, groups: Sequence[Group], kl: Sequence[float] | None = None) -> list[Sample]:
        """The groups' responses with their advantages; ``kl``, if given, is subtracted from the rewards."""
        rewards = shaped_rewards(groups, self.cfg, self.sampling.max_tokens)
        if kl is not None:
            rewards = [r - self.cfg.kl_coefficient * k for r, k in zip(rewards, kl, strict=True)]
        return to_samples(groups, rewards, self.cfg)

    def _kl_of(self, samples: Sequence[Sample]) -> list[float]:
        """KL estimate of each response, summed over its tokens; the same on every rank."""
        mine = self._mine(samples)
        mine_of_rank = [samples[i] for i in mine]
        policy, reference = (
            self.actor.get_inference_log_probs(mine_of_rank),
            self.actor.get_init_policy_logprobs(mine_of_rank),
        )
        sums = {
            i: kl_estimate(torch.tensor(p), torch.tensor(r), self.cfg.kl_estimator).sum().item()
            for i, p, r in zip(mine, policy, reference, strict=True)
        }
        gathered: list[dict[int, float]] = [{}] * parallel_state.get_data_parallel_world_size()
        dist.all_gather_object(gathered, sums, group=parallel_state.get_data_parallel_group())
        known = {i: value for part in gathered for i, value in part.items()}
        return [known[i] for i in range(len(samples))]

    def _prepare(self, samples: list[Sample]) -> dict[str, Any]:
        """This rank's share of a batch, with the log-probs needed before the first update."""
        batch = self._share(samples)
        if self.cfg.max_lag:
            # the policy that sampled may be older than the one before the first update
            sampled = [sample.per_token["rollout"] for sample in batch["samples"]]
            batch["samples"] = _with(batch["samples"], "old", sampled)
        elif self.cfg.optimizer_steps > 1:
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
        sequences = ((len(sample.tokens), sample.response_length) for sample in samples)
        sequence_costs = costs(self.recipe, self.architecture, sequences)
        shares = share(sequence_costs, parallel_state.get_data_parallel_world_size())
        return shares[parallel_state.get_data_parallel_rank()]

    def _rollout_seed(self, step: int, place: int, task: JudgeTask) -> int:
        return derive_seed(self.recipe.seed, f"grpo rollout {place}", task.id, step) & 0x7FFFFFFF


def _with(samples: Sequence[Sample], name: str, values: Sequence[Sequence[float]]) -> list[Sample]:
    return [
        replace(s, per_token=s.per_token | {name: tuple(v)}) for s, v in zip(samples, values, strict=True)
    ]

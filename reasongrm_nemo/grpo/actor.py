# SPDX-License-Identifier: Apache-2.0
"""The policy: NeMo-Aligner's Megatron actor with GRPO's loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from nemo_aligner.models.nlp.gpt.megatron_gpt_reinforce_actor import MegatronGPTReinforceActorModel
from nemo_aligner.utils.train_utils import set_eval, set_sync_funcs, set_train
from nemo_aligner.utils.utils import retrieve_model_state_dict_in_cpu
from omegaconf import DictConfig
from torch import Tensor

from reasongrm_nemo.grpo.loss import micro_batch_loss
from reasongrm_nemo.megatron.forward_backward import LossFunction, run_micro_batches
from reasongrm_nemo.megatron.gpt import JudgeModelMixin
from reasongrm_nemo.megatron.micro_batches import MicroBatch, Sample
from reasongrm_nemo.megatron.offload import move_states
from reasongrm_nemo.megatron.timers import Timers


class GRPOActor(JudgeModelMixin, MegatronGPTReinforceActorModel):
    """MegatronGPTReinforceActorModel that scores and trains in micro-batches of a fixed token budget.

    Inherits model construction, gradient reduction and swapping in the reference weights. Replaces
    generation (vLLM does it), the REINFORCE loss, fixed-shape micro-batches, the s x s attention mask, and
    optimizer offload (NeMo-Aligner's works only with Apex optimizers).
    """

    grpo: DictConfig
    _optimizer: Any
    init_policy_state_dict: Any

    @cached_property
    def timers(self) -> Timers:
        """Seconds spent in ``forward_backward`` (scoring included) and in phases that the trainer adds."""
        return Timers()

    def prepare_for_training(self) -> None:
        """Move offloaded optimizer states back to the GPU."""
        if self.cfg.offload_optimizer:
            move_states(self._optimizer, torch.cuda.current_device())

    def finish_training(self) -> None:
        """Free GPU memory for colocated servers: cached activations, and offloaded optimizer states."""
        if self.cfg.offload_optimizer:
            move_states(self._optimizer, "cpu")
        torch.cuda.empty_cache()

    def keep_reference(self) -> None:
        """Copy the current weights to host memory as the reference policy."""
        self.init_policy_state_dict = retrieve_model_state_dict_in_cpu(
            self, megatron_amp_O2=self.megatron_amp_O2
        )

    @torch.no_grad()
    def get_inference_log_probs(self, response_tokens: Sequence[Sample], *unused: Any) -> list[list[float]]:
        """Log-probs of each sample's response tokens under the model's current weights.

        Overrides NeMo-Aligner's method, which ``get_init_policy_logprobs`` calls with the reference weights
        swapped in.
        """
        set_eval(self)
        set_sync_funcs(self, forward_only=True)
        with self.timers("forward_backward"):
            _, scored = run_micro_batches(
                self.model, response_tokens, self._budget(), self.length_multiple(), None
            )
        set_train(self)
        return scored

    def get_loss_and_metrics(
        self, batch: dict[str, Any], forward_only: bool
    ) -> tuple[float, dict[str, float]]:
        """Compute the loss of one global batch and, unless ``forward_only``, its gradients.

        Args:
            batch: ``samples``: this data-parallel rank's share, with ``per_token`` values ``rollout``
                (log-probs from the sampling engine) and optionally ``old`` and ``reference``, and with
                weights computed over the global batch; ``tokens``: response tokens in the global batch.
            forward_only: skip the backward pass.

        Returns:
            The loss, and metrics over the global batch: ``loss``, ``clip_share``, ``kl``, ``entropy`` (nats,
            mean over response tokens), the difference from the sampling engine's log-probs
            (``log_prob_error_mean``, ``_max``) and ``packed``, the non-padding share of all tokens.
        """
        samples, tokens = batch["samples"], batch["tokens"]
        largest_errors: list[Tensor] = []
        set_sync_funcs(self, forward_only)
        with self.timers("forward_backward"), torch.set_grad_enabled(not forward_only):
            sums, _ = run_micro_batches(
                self.model,
                samples,
                self._budget(),
                self.length_multiple(),
                self.loss_function(largest_errors),
                entropy=True,
            )
        names = ("clip_share", "kl", "entropy", "log_prob_error_mean")
        metrics = {"loss": sums.get("loss", 0.0)} | {name: sums.get(name, 0.0) / tokens for name in names}
        metrics |= {name: sums.get(name, 0.0) for name in ("real", "laid_out")}
        metrics = self._reduce(metrics, dist.ReduceOp.SUM)
        metrics["packed"] = metrics.pop("real") / metrics.pop("laid_out")
        largest = max((error.item() for error in largest_errors), default=0.0)
        metrics |= self._reduce({"log_prob_error_max": largest}, dist.ReduceOp.MAX)
        return metrics["loss"], metrics

    def loss_function(self, largest_errors: list[Tensor]) -> LossFunction:
        """Build the micro-batch loss for ``run_micro_batches`` from the recipe's ``grpo`` block.

        Args:
            largest_errors: collects each micro-batch's largest difference from the sampler's log-probs.
        """
        # NeMo averages gradients over data-parallel ranks; this loss needs their sum
        scale = parallel_state.get_data_parallel_world_size()

        def loss_function(
            log_probs: Tensor, entropy: Tensor, micro_batch: MicroBatch
        ) -> tuple[Tensor, dict[str, Tensor]]:
            sums, largest_error = micro_batch_loss(log_probs, entropy, micro_batch, self.grpo)
            largest_errors.append(largest_error)
            return sums["loss"] * scale, {name: value.detach() for name, value in sums.items()}

        return loss_function

    def finish_training_step(self) -> None:
        """Reduce gradients across ranks."""
        with self.timers("optimizer"):
            self.complete_gradients()
            super().finish_training_step()

    def _budget(self) -> int:
        return int(self.grpo.max_tokens_per_micro_batch)

    def _reduce(self, metrics: dict[str, float], how: dist.ReduceOp) -> dict[str, float]:
        """Reduce over data-parallel ranks; a maximum also over pipeline stages (only the last has values)."""
        device = torch.cuda.current_device()
        values = torch.tensor(list(metrics.values()), device=device, dtype=torch.float64)
        dist.all_reduce(values, op=how, group=parallel_state.get_data_parallel_group())
        if how is dist.ReduceOp.MAX:
            dist.all_reduce(values, op=how, group=parallel_state.get_model_parallel_group())
        return dict(zip(metrics, values.tolist(), strict=True))

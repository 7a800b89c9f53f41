# SPDX-License-Identifier: Apache-2.0
"""NeMo-Aligner's SFT model with a loss that does not depend on how the batch is split."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from nemo_aligner.models.nlp.gpt.gpt_sft_model import GPTSFTModel
from nemo_aligner.utils.train_utils import set_eval, set_sync_funcs, set_train
from torch import Tensor

from reasongrm_nemo.megatron.forward_backward import LossFunction, run_micro_batches
from reasongrm_nemo.megatron.gpt import JudgeModelMixin
from reasongrm_nemo.megatron.micro_batches import MicroBatch, Sample


class SFTModel(JudgeModelMixin, GPTSFTModel):
    """GPTSFTModel on ``ScoringGPTModel``; negative log-likelihood of the response tokens only.

    NeMo-Aligner averages over tokens within a micro-batch and then over micro-batches, which gives tokens
    of long responses less weight. Here every response token of the global batch has the same weight.
    """

    token_budget: int = 4096

    def get_loss_and_metrics(
        self, batch: dict[str, list[Sample]], forward_only: bool
    ) -> tuple[float, dict[str, Any]]:
        """Compute the loss of one global batch from this data-parallel rank's share of its samples.

        Args:
            batch: ``samples``: this rank's samples.
            forward_only: skip the backward pass.

        Returns:
            The loss over the global batch, and metrics including the loss.
        """
        samples = batch["samples"]
        group = parallel_state.get_data_parallel_group()
        tokens = torch.tensor(
            float(sum(s.response_length for s in samples)), device=torch.cuda.current_device()
        )
        dist.all_reduce(tokens, group=group)
        set_sync_funcs(self, forward_only)
        with torch.set_grad_enabled(not forward_only):
            sums, _ = run_micro_batches(
                self.model,
                samples,
                self.token_budget,
                self.length_multiple(),
                self.loss_function(tokens),
            )
        loss = torch.tensor(sums.get("loss", 0.0), device=torch.cuda.current_device(), dtype=torch.float64)
        dist.all_reduce(loss, group=group)
        value = (loss / tokens).item()
        return value, {"loss": value, "tokens": int(tokens)}

    def loss_function(self, tokens: Tensor | float) -> LossFunction:
        """Build the micro-batch loss for ``run_micro_batches``; ``tokens``: response tokens, global batch."""
        # NeMo averages gradients over data-parallel ranks; this loss needs their sum
        scale = parallel_state.get_data_parallel_world_size() / tokens

        def loss_function(log_probs: Tensor, micro_batch: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
            loss = -(log_probs * micro_batch.mask.to(log_probs.device)).sum()
            return loss * scale, {"loss": loss.detach()}

        return loss_function

    def finish_training_step(self) -> None:
        """Reduce gradients across ranks."""
        self.complete_gradients()
        super().finish_training_step()

    def prepare_for_validation_step(self) -> None:
        """Switch to evaluation; skips NeMo-Aligner's micro-batch bookkeeping, useless with a token budget."""
        set_eval(self)

    def finish_validation_step(self) -> None:
        """Switch back to training."""
        set_train(self)

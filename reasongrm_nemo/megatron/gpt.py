# SPDX-License-Identifier: Apache-2.0
"""The GPT model of both trainers: scores tokens instead of returning logits, and needs no mask."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from nemo_aligner.utils.train_utils import clip_gradients
from torch import Tensor

from reasongrm_nemo.megatron import layers
from reasongrm_nemo.megatron.log_probs import chunked_log_probs


class ScoringGPTModel(GPTModel):
    """megatron-core's GPTModel that returns log-probs of given targets from its last stage."""

    real_vocab_size: int
    post_process: bool
    log_prob_chunk: int = 1024
    temperature: float = 1.0

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor | None = None,
        targets: Tensor | None = None,
        scored: Tensor | None = None,
        entropy: bool = False,
        **kwargs: Any,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Run this pipeline stage.

        Args:
            input_ids: int64 [b, s]; padding on the right.
            position_ids: int64 [b, s].
            attention_mask: None; attention is causal by construction.
            targets: int64 [b, s], the tokens to score at each position; None for plain GPTModel output.
            scored: the positions that are scored, int64 [n], places in [s * b]; None: all.
            entropy: with targets, also return the entropy of each position's distribution.
            **kwargs: passed on to GPTModel.

        Returns:
            fp32 log-probs [b, s] on the last stage with targets, with ``entropy`` a pair of them and the
            entropies in nats, fp32 [b, s], both at ``temperature`` and 0 where not scored;
            else what GPTModel returns.
        """
        if targets is None or not self.post_process:
            return super().forward(input_ids, position_ids, attention_mask, **kwargs)
        # without post_process GPTModel.forward stops after the final norm, before the output layer
        self.post_process = False
        try:
            hidden = super().forward(input_ids, position_ids, attention_mask, **kwargs)
        finally:
            self.post_process = True
        tied = self.share_embeddings_and_output_weights
        weight = self.shared_embedding_or_output_weight() if tied else self.output_layer.weight
        log_probs, entropies = chunked_log_probs(
            hidden,
            weight,
            targets.t().contiguous(),
            vocab=self.real_vocab_size,
            chunk=self.log_prob_chunk,
            sequence_parallel=self.config.sequence_parallel,
            scored=scored,
            entropy=entropy,
            temperature=self.temperature,
        )
        return log_probs.t() if entropies is None else (log_probs.t(), entropies.t())


class JudgeModelMixin:
    """What our SFT model and GRPO actor change in NeMo's MegatronGPTModel: how the network is built."""

    cfg: Any
    transformer_config: Any
    model: Any
    use_mcore_dist_optim: bool
    _optimizer: Any

    def model_provider_func(self, pre_process: bool, post_process: bool) -> ScoringGPTModel:
        """Build this rank's stage from ``self.cfg`` (see ``megatron.nemo_config``)."""
        cfg, config = self.cfg, self.transformer_config
        spec = layers.transformer_engine_spec if cfg.transformer_engine else layers.plain_spec
        model = ScoringGPTModel(
            config=config,
            transformer_layer_spec=spec(config),
            vocab_size=cfg.override_vocab_size,
            max_sequence_length=cfg.encoder_seq_length,
            pre_process=pre_process,
            post_process=post_process,
            parallel_output=True,
            share_embeddings_and_output_weights=cfg.share_embeddings_and_output_weights,
            position_embedding_type="rope",
            rotary_percent=1.0,
            rotary_base=cfg.rotary_base,
        )
        model.real_vocab_size = cfg.vocab_size
        model.log_prob_chunk, model.temperature = cfg.log_prob_chunk, cfg.temperature
        return model

    def core_module(self) -> ScoringGPTModel:
        """The bare GPT model of this rank, whatever wraps it."""
        module = self.model[0] if isinstance(self.model, list) else self.model
        while not isinstance(module, ScoringGPTModel):
            module = module.module
        return module

    def length_multiple(self) -> int:
        """What a micro-batch's length must be a multiple of."""
        return self.cfg.tensor_model_parallel_size if self.cfg.sequence_parallel else 1

    def clip_gradients(self, limit: float) -> float | None:
        """Clip the reduced gradients to a global norm; collective.

        Returns:
            The norm before; None where ``limit`` is 0, which clips nothing.
        """
        if self.use_mcore_dist_optim:
            # it clips in its own step; a norm that is no number must be known before
            self._optimizer.mcore_optimizer.prepare_grads()
            return float(self._optimizer.mcore_optimizer.get_grad_norm())
        norm = clip_gradients(self, limit)
        return None if norm is None else float(norm)

    def complete_gradients(self) -> None:
        """What must be true of this rank's gradients before NeMo reduces them over ranks.

        Zeros where a rank had nothing to train on, so that all ranks reduce the same tensors. And the sum
        over tensor-parallel ranks for the norms of queries and keys: each rank has seen its own heads
        alone. megatron-core's optimizer does that itself (finalize_model_grads.py), and NeMo under
        sequence parallelism, but nobody for the plain optimizer.
        """
        for name, parameter in self.core_module().named_parameters():
            if not parameter.requires_grad or hasattr(parameter, "main_grad"):
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if _sees_own_heads_alone(name) and not self.cfg.sequence_parallel:
                dist.all_reduce(parameter.grad, group=parallel_state.get_tensor_model_parallel_group())


def _sees_own_heads_alone(name: str) -> bool:
    return "q_layernorm" in name or "k_layernorm" in name

# SPDX-License-Identifier: Apache-2.0
"""The GPT model of both trainers: scores tokens instead of returning logits, without an attention mask."""

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
    """megatron-core's GPTModel whose last stage returns log-probs of given targets."""

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
            scored: positions to score, int64 [n], indices into [s * b]; None: all.
            entropy: with targets, also return the entropy of each position's distribution.
            **kwargs: passed on to GPTModel.

        Returns:
            On the last stage with targets: log-probs, fp32 [b, s]; with ``entropy`` a pair of log-probs and
            entropies in nats, fp32 [b, s]. Both are at ``temperature``, and 0 where not scored.
            Otherwise: GPTModel's output.
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
    """Changes to NeMo's MegatronGPTModel that the SFT model and the GRPO actor share."""

    cfg: Any
    transformer_config: Any
    model: Any
    use_mcore_dist_optim: bool
    _optimizer: Any

    def model_provider_func(self, pre_process: bool, post_process: bool) -> ScoringGPTModel:
        """Build this rank's pipeline stage from ``self.cfg`` (see ``megatron.nemo_config``)."""
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
        """This rank's GPT model, without its wrappers."""
        module = self.model[0] if isinstance(self.model, list) else self.model
        while not isinstance(module, ScoringGPTModel):
            module = module.module
        return module

    def length_multiple(self) -> int:
        """The number that a micro-batch's length must be a multiple of."""
        return self.cfg.tensor_model_parallel_size if self.cfg.sequence_parallel else 1

    def clip_gradients(self, limit: float) -> float | None:
        """Clip the reduced gradients to a global norm; collective.

        Returns:
            The norm before clipping; None if ``limit`` is 0, which disables clipping.
        """
        if self.use_mcore_dist_optim:
            # this optimizer clips inside its step(), but a non-finite norm must be known before
            self._optimizer.mcore_optimizer.prepare_grads()
            return float(self._optimizer.mcore_optimizer.get_grad_norm())
        norm = clip_gradients(self, limit)
        return None if norm is None else float(norm)

    def complete_gradients(self) -> None:
        """Prepare this rank's gradients for NeMo's reduction over ranks.

        Fills in zeros on a rank that had nothing to train on, because all ranks must reduce the same tensors.
        Sums the gradients of query and key norms over tensor-parallel ranks, because each rank computes them
        from its part of the heads. megatron-core's optimizer does this itself (finalize_model_grads.py), and
        so does NeMo under sequence parallelism, but with the plain optimizer nothing else does.
        """
        for name, parameter in self.core_module().named_parameters():
            if not parameter.requires_grad or hasattr(parameter, "main_grad"):
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if _is_query_or_key_norm(name) and not self.cfg.sequence_parallel:
                dist.all_reduce(parameter.grad, group=parallel_state.get_tensor_model_parallel_group())


def _is_query_or_key_norm(name: str) -> bool:
    return "q_layernorm" in name or "k_layernorm" in name

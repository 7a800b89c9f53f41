# SPDX-License-Identifier: Apache-2.0
"""Layer specifications: Transformer Engine on GPU, plain PyTorch without an s x s mask on CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from reasongrm_nemo.megatron.elementwise import rms_norm


class CausalAttention(MegatronModule):
    """Core attention through ``scaled_dot_product_attention``: causal, grouped queries, no mask tensor.

    megatron-core's local attention builds the s x s score matrix, and NeMo-Aligner adds a dense mask of the
    same size. This class needs neither.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
    ) -> None:
        super().__init__(config=config)
        self.softmax_scale = softmax_scale

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: Any
    ) -> Tensor:
        """Attend.

        Args:
            query: [s, b, heads / tp, d].
            key: [s, b, groups / tp, d].
            value: [s, b, groups / tp, d].
            attention_mask: must be None; every sequence starts at position 0 and padding is on the right.

        Returns:
            [s, b, heads * d / tp].
        """
        if attention_mask is not None:
            raise ValueError("causal attention takes no mask tensor")
        query, key, value = (t.permute(1, 2, 0, 3) for t in (query, key, value))
        context = F.scaled_dot_product_attention(
            query,
            key,
            value,
            is_causal=True,
            scale=self.softmax_scale,
            enable_gqa=query.size(1) != key.size(1),
        )
        return context.permute(2, 0, 1, 3).flatten(2)


class RMSNorm(torch.nn.RMSNorm):
    """PyTorch's RMSNorm with megatron-core's signature, usable under sequence parallelism."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        # NeMo all-reduces the gradients of parameters with this mark over the tensor-parallel group
        self.weight.sequence_parallel = config.sequence_parallel

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return rms_norm(x, self.weight, self.eps)


def plain_spec(config: TransformerConfig) -> TransformerBlockSubmodules:
    """The decoder block in plain PyTorch, for CPU."""
    layer = get_gpt_layer_local_spec(normalization="RMSNorm", qk_layernorm=config.qk_layernorm)
    attention = layer.submodules.self_attention.submodules
    attention.core_attention = CausalAttention
    if config.qk_layernorm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = RMSNorm
    return TransformerBlockSubmodules(
        layer_specs=[layer] * get_num_layers_to_build(config), layer_norm=RMSNorm
    )


def transformer_engine_spec(config: TransformerConfig) -> ModuleSpec:
    """The decoder layer of Transformer Engine, for GPU (its Python runs in the tests, its kernels do not)."""
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec

    return get_gpt_layer_with_transformer_engine_spec(qk_layernorm=config.qk_layernorm)

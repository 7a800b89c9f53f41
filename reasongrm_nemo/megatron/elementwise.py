# SPDX-License-Identifier: Apache-2.0
"""RMSNorm, SwiGLU and rotary embedding with hand-written gradients, for any device.

All three are memory-bound, and autograd would take twice as many passes over memory and keep more of it.
Of the three, Transformer Engine's layers bring the norm alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def install() -> None:
    """Give megatron-core our SwiGLU and rope where its configuration asks for fused ones.

    Its own are compiled for one shape or are CUDA kernels (models/common/embeddings/rope_utils.py:24,
    transformer/mlp.py:18); these take any shape on any device.
    """
    from megatron.core.models.common.embeddings import rope_utils
    from megatron.core.transformer import mlp

    rope_utils.fused_apply_rotary_pos_emb = rotary
    mlp.bias_swiglu_impl = swiglu


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = _wide(x)
        inverse = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse.square_().div_(x.size(-1)).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        grad, scale = _wide(grads[0]), weight.to(inverse.dtype)
        normed = _wide(x) * inverse
        product = grad * normed
        grad_weight = product.flatten(0, -2).sum(0)
        # d y_i / d x_j = inverse * (w_i δ_ij - w_i n_i n_j / size)
        along = (product @ scale).div_(x.size(-1))[..., None]
        grad_x = (grad * scale).addcmul_(normed, along, value=-1).mul_(inverse)
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """X / sqrt(mean(x²) + eps) · weight over the last dimension (Zhang and Sennrich 2019, eq. 4).

    Args:
        x: [..., n]; 16-bit types are computed in fp32.
        weight: [n].
        eps: added to the mean square.

    Returns:
        Shape and dtype of ``x``.
    """
    return _RMSNorm.apply(x, weight, eps)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        gate, value = x.chunk(2, -1)
        return F.silu(gate).mul_(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate, value = x.chunk(2, -1)
        out = torch.empty_like(x)
        grad_gate, grad_value = out.chunk(2, -1)
        torch.mul(grads[0], F.silu(gate), out=grad_value)
        torch.ops.aten.silu_backward.grad_input(grads[0] * value, gate, grad_input=grad_gate)
        return out


def swiglu(x: Tensor, bias: Tensor | None, fp8_input_store: bool = False) -> Tensor:
    """silu(x₁) · x₂ of the halves of the last dimension (Shazeer 2020, eq. 6); megatron-core's signature.

    megatron-core calls this if ``bias_activation_fusion`` is set.

    Args:
        x: [..., 2 n].
        bias: [2 n], added to ``x`` first.
        fp8_input_store: must be False.

    Returns:
        [..., n].
    """
    if fp8_input_store:
        raise ValueError("activations cannot be stored in fp8")
    return _SwiGLU.apply(x if bias is None else x + bias)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, angles: Tensor) -> Tensor:
        angles = angles[..., : x.size(-1) // 2]  # the second half repeats the first
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turned(grads[0], cos, sin, -1), None


def rotary(x: Tensor, angles: Tensor, transpose_output_memory: bool = False) -> Tensor:
    """Rotary position embedding (Su et al. 2021, eq. 34), pairs (i, i + d/2); Apex's signature.

    megatron-core calls this if ``apply_rope_fusion`` is set.

    Args:
        x: [s, b, heads, d].
        angles: fp32 [s, 1, 1, d], the same in both halves.
        transpose_output_memory: ignored; an option of the GPU kernel.
    """
    if angles.size(-1) != x.size(-1):
        raise ValueError(f"rotary embedding of {angles.size(-1)} of {x.size(-1)} dimensions is not supported")
    return _Rotary.apply(x, angles)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    (a, b), (left, right) = x.chunk(2, -1), out.chunk(2, -1)
    torch.mul(a, cos, out=left).addcmul_(b, sin, value=-sign)
    torch.mul(b, cos, out=right).addcmul_(a, sin, value=sign)
    return out


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x

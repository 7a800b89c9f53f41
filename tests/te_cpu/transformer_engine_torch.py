# SPDX-License-Identifier: Apache-2.0
"""Transformer Engine 2.2's compiled extension in plain PyTorch: only what a layer without fp8 calls.

Its other functions raise NotImplementedError with their name.
"""

from __future__ import annotations

import enum

import torch

DType = enum.IntEnum(
    "DType", "kByte kInt16 kInt32 kInt64 kFloat32 kFloat16 kBFloat16 kFloat8E4M3 kFloat8E5M2", start=0
)
FP8FwdTensors = enum.IntEnum(
    "FP8FwdTensors",
    [f"GEMM{n}_{part}" for n in (1, 2, 3) for part in ("INPUT", "WEIGHT", "OUTPUT")],
    start=0,
)
FP8BwdTensors = enum.IntEnum(
    "FP8BwdTensors", [f"GRAD_{part}{n}" for n in (1, 2, 3) for part in ("OUTPUT", "INPUT")], start=0
)
CommOverlapType = enum.IntEnum("CommOverlapType", "RS AG", start=0)
CommOverlapAlgo = enum.IntEnum(
    "CommOverlapAlgo",
    "BULK_OVERLAP_AG BULK_OVERLAP_RS SPLIT_PIPELINED_AG_P2P SPLIT_PIPELINED_RS SPLIT_PIPELINED_RS_P2P "
    "ATOMIC_GEMM_RS ATOMIC_GEMM_AG_P2P ATOMIC_GEMM_RS_P2P",
    start=0,
)
NVTE_Bias_Type = enum.IntEnum(
    "NVTE_Bias_Type", "NVTE_NO_BIAS NVTE_PRE_SCALE_BIAS NVTE_POST_SCALE_BIAS NVTE_ALIBI", start=0
)
NVTE_Mask_Type = enum.IntEnum(
    "NVTE_Mask_Type",
    "NVTE_NO_MASK NVTE_PADDING_MASK NVTE_CAUSAL_MASK NVTE_PADDING_CAUSAL_MASK NVTE_CAUSAL_BOTTOM_RIGHT_MASK "
    "NVTE_PADDING_CAUSAL_BOTTOM_RIGHT_MASK",
    start=0,
)
NVTE_QKV_Format = enum.IntEnum(
    "NVTE_QKV_Format",
    "NVTE_SBHD NVTE_BSHD NVTE_THD NVTE_BSHD_2SBHD NVTE_SBHD_2BSHD NVTE_THD_2BSHD NVTE_THD_2SBHD",
    start=0,
)
NVTE_Fused_Attn_Backend = enum.IntEnum(
    "NVTE_Fused_Attn_Backend",
    "NVTE_No_Backend NVTE_F16_max512_seqlen NVTE_F16_arbitrary_seqlen NVTE_FP8",
    start=-1,
)


class _Names:
    """Stands in for an enumeration; every attribute is its name."""

    def __getattr__(self, name):
        return name


NVTE_QKV_Layout = _Names()

_DTYPES = {
    DType.kFloat32: torch.float32,
    DType.kFloat16: torch.float16,
    DType.kBFloat16: torch.bfloat16,
}
_num_cublas_streams = 4


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    if name[0].isupper():  # a class that is never instantiated
        return type(name, (), {})

    def absent(*_, **__):
        raise NotImplementedError(f"transformer_engine_torch.{name}")

    return absent


# must be real attributes, because they are imported by name
for _name in (
    "layernorm_fwd",
    "layernorm_bwd",
    "quantize",
    "bgrad_quantize",
    "fused_attn_fwd",
    "fused_attn_bwd",
):
    globals()[_name] = __getattr__(_name)
for _name in ("fa_prepare_fwd", "fa_prepare_bwd"):
    globals()[_name] = __getattr__(_name)


def get_cublasLt_version():
    return 120800


def get_cudnn_version():
    return 90700


def get_fused_attn_backend(*_):
    """No backend, so attention is computed by PyTorch."""
    return NVTE_Fused_Attn_Backend.NVTE_No_Backend


def generic_gemm(a, transa, b, transb, out, _quantizer, out_dtype, bias, _bias_dtype, *rest, **_overlap):
    """The column-major op(a) @ op(b) of cuBLAS, computed as op(b) @ op(a) of the row-major tensors.

    Returns:
        the product, the gradient of the bias (if a gradient is requested, else None), and two Nones.
    """
    _gelu, _gelu_in, grad, _workspace, _size, accumulate, *_ = rest
    left, right = b.reshape(-1, b.shape[-1]), a.reshape(-1, a.shape[-1])
    product = (left.t() if transb else left) @ (right.t() if transa else right)
    product = product.to(_DTYPES[out_dtype] if out_dtype is not None else a.dtype)
    bias_grad = left.sum(0) if grad and bias is not None and left.numel() else None
    if bias is not None and not grad:
        product = product + bias
    if not transb:
        product = product.view(*b.shape[:-1], product.shape[-1])
    if out is not None:
        (out.add_ if accumulate else out.copy_)(product.view_as(out))
        product = out
    return product, bias_grad, None, None


def rmsnorm_fwd(x, weight, eps, out, _quantizer, dtype, _margin, zero_centered):
    assert not zero_centered
    inverse = (x.float().pow(2).mean(-1) + eps).rsqrt()
    normed = x.float() * inverse[..., None] * weight.float()
    normed = normed.to(_DTYPES[dtype] if isinstance(dtype, DType) else dtype)
    if out is not None:
        normed = out.copy_(normed)
    return normed, None, inverse


def rmsnorm_bwd(grad, x, inverse, weight, _margin, zero_centered):
    assert not zero_centered
    normed = x.float() * inverse[..., None]
    scaled = grad.float() * weight.float()
    x_grad = (scaled - normed * (scaled * normed).mean(-1, keepdim=True)) * inverse[..., None]
    weight_grad = (grad.float() * normed).reshape(-1, normed.shape[-1]).sum(0)
    return x_grad.to(x.dtype), weight_grad.to(weight.dtype)


def multi_tensor_adam(_chunk, _noop, lists, lr, beta1, beta2, eps, step, mode, corrected, decay):
    """FusedAdam's kernel: AdamW (mode 1), in place."""
    assert mode == 1 and corrected
    for grad, weight, mean, square in zip(*lists, strict=True):
        grad = grad.float()
        mean.mul_(beta1).add_(grad, alpha=1 - beta1)
        square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        update = (mean / (1 - beta1**step)) / ((square / (1 - beta2**step)).sqrt() + eps)
        weight.sub_(lr * (update + decay * weight))


def multi_tensor_l2norm(_chunk, _noop, lists, *_):
    return torch.stack([tensor.float().norm() for tensor in lists[0]]).norm().reshape(1), None


def multi_tensor_scale(_chunk, _noop, lists, factor):
    for source, target in zip(*lists, strict=True):
        target.copy_(source * factor)

# SPDX-License-Identifier: Apache-2.0
"""The hand-written kernels equal PyTorch's compositions in value and gradient.

In fp64: gradients within 1e-6 of finite differences (gradcheck), values within 1e-12.
"""

import pytest
import torch
import torch.nn.functional as F

from reasongrm_nemo.megatron.elementwise import rms_norm, rotary, swiglu


def _values(*shape):
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def _rotary(x, angles):
    cos, sin = angles.cos(), angles.sin()
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat((-right, left), -1) * sin


X, WEIGHT, WIDE = _values(5, 2, 8), _values(8), _values(3, 2, 2, 8)
ANGLES = torch.arange(12, dtype=torch.float64).view(3, 1, 1, 4).repeat(1, 1, 1, 2)
CASES = {
    "rms_norm": (lambda x, w: rms_norm(x, w, 1e-3), lambda x, w: F.rms_norm(x, (8,), w, 1e-3), (X, WEIGHT)),
    "swiglu": (lambda x: swiglu(x, None), lambda x: F.silu(x[..., :4]) * x[..., 4:], (X,)),
    "rotary": (lambda x: rotary(x, ANGLES), lambda x: _rotary(x, ANGLES), (WIDE,)),
}


@pytest.mark.parametrize("case", list(CASES))
def test_equals_the_composition(case):
    ours, plain, inputs = CASES[case]
    torch.testing.assert_close(ours(*inputs), plain(*inputs), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(ours, inputs)


def test_half_precision_is_computed_in_fp32():
    x, weight = X.detach().bfloat16(), WEIGHT.detach().bfloat16()
    wanted = F.rms_norm(x.float(), (8,), weight.float(), 1e-3)
    # one rounding of the result to 8 bits
    torch.testing.assert_close(rms_norm(x, weight, 1e-3).float(), wanted, rtol=2**-8, atol=0)

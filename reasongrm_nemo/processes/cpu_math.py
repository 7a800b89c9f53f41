# SPDX-License-Identifier: Apache-2.0
"""Makes Intel's vector math library safe to call from several threads."""

from __future__ import annotations

_FUNCTIONS = (
    *(
        "acos",
        "asin",
        "atan",
        "cos",
        "erf",
        "erfc",
        "erfinv",
        "exp",
        "expm1",
        "log",
        "log10",
        "log1p",
        "log2",
    ),
    *("sin", "sinh", "cosh", "sqrt", "tan", "tanh"),
)


def settle() -> None:
    """Call each of PyTorch's element-wise functions once, on one thread, before any other computation.

    oneMKL 2024.2, which comes with torch 2.13, chooses a function's kernel at the first call. If two threads
    make this call at once, one may use a kernel of low accuracy for that call (pytorch issue 188792).
    Observed: half of the rotary embedding's cosines were off by 1e-4 in a resumed trainer's first forward
    pass, which then differed from the uninterrupted run. vLLM computes a table of them once for its lifetime.
    """
    import torch

    for dtype in (torch.float32, torch.float64):
        few = torch.full((64,), 0.5, dtype=dtype)  # too few elements to be split over threads
        for name in _FUNCTIONS:
            getattr(torch, name)(few)

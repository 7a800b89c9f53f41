# SPDX-License-Identifier: Apache-2.0
"""Intel's vector mathematics, made safe to call from several threads."""

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
    """Call each of PyTorch's element-wise functions once, on one thread; must come before any real work.

    oneMKL 2024.2, which torch 2.13 brings, chooses a function's kernel at its first call. When two threads
    make that call at once, one of them may run a kernel of low accuracy, that once (pytorch issue 188792).
    Seen here: half of the rotary embedding's cosines off by 1e-4 in a resumed trainer's first forward pass,
    so that it no longer equalled the unbroken run. vLLM keeps a table of them as long as it lives.
    """
    import torch

    for dtype in (torch.float32, torch.float64):
        few = torch.full((64,), 0.5, dtype=dtype)  # too few to be shared out among threads
        for name in _FUNCTIONS:
            getattr(torch, name)(few)

# SPDX-License-Identifier: Apache-2.0
"""Stand-ins on CPU for what Transformer Engine 2.2's Python asks of a GPU.

The container environment's copy of Transformer Engine imports this module first (see
scripts/environments/container.py), so it is active in every process of that environment and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import sys
from types import ModuleType

# do not load libcudnn, libnvrtc or libtransformer_engine; do not compile with TorchInductor
os.environ |= {"NVTE_PROJECT_BUILDING": "1", "NVTE_RELEASE_BUILD": "0"}
os.environ |= {"NVTE_TORCH_COMPILE": "0", "NVTE_MASKED_SOFTMAX_FUSION": "0"}

import torch

CPU = torch.device("cpu")


class A100:
    """Properties of the pretended GPU; it has no fp8."""

    major, minor = 8, 0
    multi_processor_count = 108
    total_memory = 80 << 30


def _no_triton():
    """Modules in place of triton, whose kernels (fused permutation and cross-entropy) nothing here calls."""
    triton, language = ModuleType("triton"), ModuleType("triton.language")
    triton.jit = triton.autotune = triton.heuristics = lambda *a, **_: a[0] if a else lambda f: f
    triton.Config = lambda *_, **__: None
    triton.language, language.constexpr = language, int
    return {"triton": triton, "triton.language": language}


def imported():
    """Replace functions that use a GPU; runs at the end of Transformer Engine's import."""
    import transformer_engine.pytorch.module.base as base

    base.get_workspace = lambda: torch.empty(1, dtype=torch.uint8)
    for name, module in list(sys.modules.items()):
        if name.startswith("transformer_engine"):
            if "canonicalize_device" in vars(module):
                module.canonicalize_device = lambda _=None: CPU
            if "get_workspace" in vars(module):
                module.get_workspace = base.get_workspace
    for name in _TRITON:
        if sys.modules.get(name) is _TRITON[name]:
            del sys.modules[name]  # or PyTorch would take it for the real triton


def pretend_gpu():
    """Let ``torch.cuda`` report a GPU, as code that trains Transformer Engine's layers checks it."""
    cuda = torch.cuda
    cuda.is_available = lambda: True
    cuda.device_count = lambda: 1
    cuda.init = lambda: None
    cuda.device = lambda *_: contextlib.nullcontext()
    cuda.is_current_stream_capturing = lambda: False
    cuda.nvtx.range = lambda *_, **__: contextlib.nullcontext()
    cuda.nvtx.range_push = cuda.nvtx.range_pop = lambda *_: None


_TRITON = {} if "triton" in sys.modules else _no_triton()
sys.modules |= _TRITON
torch.cuda.get_device_properties = lambda *_: A100
torch.cuda.get_device_capability = lambda *_: (A100.major, A100.minor)

# SPDX-License-Identifier: Apache-2.0
"""Redirects ``torch.cuda`` to the CPU, for code that assumes a GPU."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch

_CPU = torch.device("cpu")

# Tensor factories that megatron-core and NeMo call with a hard-coded device="cuda"
# (pipeline_parallel/schedules.py, transformer/utils.py, clip_grads.py).
_FACTORIES = ("tensor", "as_tensor", "zeros", "ones", "empty", "full", "arange", "rand", "randn", "randint")


class _Idle(contextlib.nullcontext[None]):
    """A stream, or an event on one, whose work is done as soon as it is asked for."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def install_device() -> None:
    """Point ``torch.cuda`` and ``device="cuda"`` at the CPU in this process."""
    cuda = torch.cuda
    cuda.current_device = lambda: _CPU
    cuda.set_device = lambda *_: None
    cuda.synchronize = lambda *_, **__: None
    cuda.memory_allocated = lambda *_: 0
    cuda.max_memory_reserved = lambda *_: 0
    cuda.empty_cache = lambda: None
    # megatron-core's block makes streams for offloading where it finds Transformer Engine, wanted or not
    cuda.Stream = cuda.Event = _Idle
    cuda.current_stream = lambda *_: _Idle()
    cuda.stream = lambda *_: _Idle()
    # the model-parallel RNG tracker (tensor_parallel/random.py) keeps named states of one generator
    cuda.get_rng_state = lambda device=None: torch.get_rng_state()
    cuda.set_rng_state = lambda state, device=None: torch.set_rng_state(state)
    cuda.manual_seed = lambda seed: torch.manual_seed(seed)
    for name in ("Float", "Long", "Int", "Half", "BFloat16", "Byte"):
        setattr(cuda, f"{name}Tensor", getattr(torch, f"{name}Tensor"))
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.nn.Module.cuda = lambda self, *_, **__: self
    for name in _FACTORIES:
        setattr(torch, name, _on_cpu(getattr(torch, name)))


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def wrapper(*args: Any, **kwargs: Any) -> torch.Tensor:
        device = kwargs.get("device")
        if device is not None and str(device).startswith("cuda"):
            kwargs["device"] = _CPU
        return factory(*args, **kwargs)

    return wrapper

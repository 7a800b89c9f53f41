# SPDX-License-Identifier: Apache-2.0
"""Moves optimizer states between GPU and host memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def move_states(optimizer: Any, device: torch.device | str) -> None:
    """Move fp32 weights and Adam's moments of megatron-core's distributed optimizer to ``device``.

    NeMo-Aligner's ``offload_adam_states`` supports only Apex's optimizer and fails on this one.

    Args:
        optimizer: NeMo's ``McoreDistributedOptimizer``.
        device: target device. Tensor objects stay the same, because the optimizer looks up states by object.
    """
    for tensor in _states(optimizer.mcore_optimizer):
        tensor.data = tensor.data.to(device)
    torch.cuda.synchronize()


def _states(optimizer: Any) -> Iterator[Tensor]:
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        for group in part.shard_fp32_from_float16_groups:
            yield from group
        # weights that are fp32 in the model are shared with the model and stay on the GPU
        for state in part.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor) and value.dim())

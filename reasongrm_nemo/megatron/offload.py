# SPDX-License-Identifier: Apache-2.0
"""Optimizer states out of a GPU's memory and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def move_states(optimizer: Any, device: torch.device | str) -> None:
    """Move fp32 weights and Adam's moments of megatron-core's distributed optimizer to ``device``.

    NeMo-Aligner's ``offload_adam_states`` knows the buckets of Apex's optimizer alone and fails on this one.

    Args:
        optimizer: NeMo's ``McoreDistributedOptimizer``.
        device: where the tensors shall be; each keeps its identity, for the optimizer finds states by it.
    """
    for tensor in _states(optimizer.mcore_optimizer):
        tensor.data = tensor.data.to(device)
    torch.cuda.synchronize()


def _states(optimizer: Any) -> Iterator[Tensor]:
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        for group in part.shard_fp32_from_float16_groups:
            yield from group
        # weights that are fp32 in the model are shared with it and stay
        for state in part.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor) and value.dim())

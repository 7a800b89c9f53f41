# SPDX-License-Identifier: Apache-2.0
"""Memory that a rank keeps between steps: weights, gradients, optimizer states."""

from __future__ import annotations

from dataclasses import dataclass

WIDTH = {"bf16": 2, "fp32": 4}
"""Bytes per element of a `model.dtype` or `rollout.dtype`."""


@dataclass(frozen=True)
class States:
    """Bytes of one rank's states.

    Attributes:
        weights: the model's weights.
        gradients: gradients, accumulated over micro-batches.
        optimizer: Adam's moments and, with bf16 weights, the fp32 weights.
    """

    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """Sum of all states."""
        return self.weights + self.gradients + self.optimizer


def of_rank(parameters: int, dtype: str, platform: str, data_parallel: int) -> States:
    """Bytes of the states of ``parameters`` parameters.

    On GPU, megatron-core keeps gradients in an fp32 buffer and shards the optimizer's 12 bytes per parameter
    over the data-parallel ranks; on CPU, gradients have the weights' dtype and every rank keeps all moments.

    Args:
        parameters: number of parameters of the rank.
        dtype: ``model.dtype``.
        platform: ``cluster.platform``.
        data_parallel: number of ranks that hold the same parameters.
    """
    width = WIDTH[dtype]
    if platform == "gpu":
        return States(width * parameters, 4 * parameters, -(-12 * parameters // data_parallel))
    return States(width * parameters, width * parameters, 2 * width * parameters)


def checkpoint_bytes(parameters: int, dtype: str, platform: str) -> int:
    """Size of a checkpoint with ``parameters`` parameters: weights and optimizer states, stored once.

    14 bytes per parameter with bf16 weights, 12 with fp32 weights on CPU.
    """
    states = of_rank(parameters, dtype, platform, 1)
    return states.weights + states.optimizer

# SPDX-License-Identifier: Apache-2.0
"""Bytes that a rank keeps from step to step: weights, gradients, optimizer states."""

from __future__ import annotations

from dataclasses import dataclass

WIDTH = {"bf16": 2, "fp32": 4}
"""Bytes of an element, by `model.dtype` and `rollout.dtype`."""


@dataclass(frozen=True)
class States:
    """Bytes of one rank.

    Attributes:
        weights: of the model.
        gradients: summed over the micro-batches.
        optimizer: Adam's moments and, with bf16 weights, the fp32 weights.
    """

    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """All three."""
        return self.weights + self.gradients + self.optimizer


def of_rank(parameters: int, dtype: str, platform: str, data_parallel: int) -> States:
    """What ``parameters`` parameters cost.

    On a GPU megatron-core keeps gradients in an fp32 buffer and deals the optimizer's 12 bytes a parameter
    out to the data-parallel ranks; on CPU gradients have the weights' type and every rank keeps all moments.

    Args:
        parameters: of the rank.
        dtype: ``model.dtype``.
        platform: ``cluster.platform``.
        data_parallel: ranks that hold the same parameters.
    """
    width = WIDTH[dtype]
    if platform == "gpu":
        return States(width * parameters, 4 * parameters, -(-12 * parameters // data_parallel))
    return States(width * parameters, width * parameters, 2 * width * parameters)


def checkpoint_bytes(parameters: int, dtype: str, platform: str) -> int:
    """A checkpoint of a model of so many parameters: weights and optimizer states, each once.

    14 bytes a parameter with bf16 weights, 12 with fp32 ones on CPU.
    """
    states = of_rank(parameters, dtype, platform, 1)
    return states.weights + states.optimizer

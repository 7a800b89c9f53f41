# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of scoring and training; a multiply-add counts as two."""

from __future__ import annotations

from dataclasses import dataclass

from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.models.parameter_counts import matrices_of_layer


@dataclass(frozen=True)
class Flops:
    """Operations of one micro-batch, forward only or forward and backward.

    Attributes:
        matrices: products with the layers' weight matrices.
        attention: products of queries with keys and of weights with values, only the causal half.
        head: logits and, in the backward pass, their gradients.
    """

    matrices: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        """Sum of all operations."""
        return self.matrices + self.attention + self.head


def of_layers(
    architecture: Architecture, layers: int, rows: int, length: int, *, train: bool, recompute: bool
) -> Flops:
    """Operations of layers, summed over all tensor-parallel ranks.

    A backward pass takes twice the matrix products of the forward pass, and 2.5 times its attention, because
    fused kernels recompute the scores; activation recomputation adds a forward pass.

    Args:
        architecture: shape of the model.
        layers: number of layers.
        rows: number of sequences.
        length: tokens per sequence, padding included.
        train: include a backward pass.
        recompute: whether the backward pass recomputes activations.
    """
    forward = 1 + (train and recompute)
    matrices = 2.0 * matrices_of_layer(architecture) * rows * length * layers
    # 2 products of length² / 2 scores per head
    attention = 2.0 * architecture.heads * architecture.head_dim * rows * length**2 * layers
    return Flops(matrices * (forward + 2 * train), attention * (forward + 2.5 * train), 0.0)


def of_head(architecture: Architecture, scored: int, *, train: bool) -> Flops:
    """Operations for log-probs of ``scored`` tokens; backward recomputes logits and takes two gradients."""
    return Flops(0.0, 0.0, 2.0 * architecture.vocab * architecture.hidden * scored * (1 + 3 * train))

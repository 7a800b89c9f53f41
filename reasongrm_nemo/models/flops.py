# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of scoring and training, a multiplication and an addition counted as two."""

from __future__ import annotations

from dataclasses import dataclass

from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.models.parameter_counts import matrices_of_layer


@dataclass(frozen=True)
class Flops:
    """Operations of one micro-batch in one direction or both.

    Attributes:
        matrices: products with weight matrices of the layers.
        attention: queries with keys and weights with values, the causal half alone.
        head: logits and, backward, their gradients.
    """

    matrices: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        """All three."""
        return self.matrices + self.attention + self.head


def of_layers(
    architecture: Architecture, layers: int, rows: int, length: int, *, train: bool, recompute: bool
) -> Flops:
    """``layers`` layers over ``rows`` sequences of ``length`` tokens, over all tensor-parallel ranks.

    A backward pass takes twice the forward's products with matrices, and five of attention's for its two (a
    fused kernel forms the scores again); recomputation adds a forward pass.

    Args:
        architecture: shape of the model.
        layers: how many of its layers.
        rows: sequences.
        length: tokens of each, padding included.
        train: with a backward pass.
        recompute: whether that begins with another forward pass.
    """
    forward = 1 + (train and recompute)
    matrices = 2.0 * matrices_of_layer(architecture) * rows * length * layers
    # 2 products of length² / 2 scores, for each head
    attention = 2.0 * architecture.heads * architecture.head_dim * rows * length**2 * layers
    return Flops(matrices * (forward + 2 * train), attention * (forward + 2.5 * train), 0.0)


def of_head(architecture: Architecture, scored: int, *, train: bool) -> Flops:
    """Log-probs of ``scored`` tokens; backward the logits are formed again, and two gradients."""
    return Flops(0.0, 0.0, 2.0 * architecture.vocab * architecture.hidden * scored * (1 + 3 * train))

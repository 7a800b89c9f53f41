# SPDX-License-Identifier: Apache-2.0
"""Counts the parameters that a rank holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from reasongrm_nemo.models.architecture import Architecture, Layout
from reasongrm_nemo.models.decoder import WeightKind


@dataclass(frozen=True)
class Count:
    """Parameters of one rank.

    Attributes:
        sharded: parameters split over tensor-parallel ranks.
        replicated: parameters that every tensor-parallel rank holds (norms).
        embedding: the part of ``sharded`` in the embedding and the output weight.
    """

    sharded: int
    replicated: int
    embedding: int = 0

    @property
    def total(self) -> int:
        """Number of all parameters of the rank."""
        return self.sharded + self.replicated


def of_layer(architecture: Architecture, tensor: int) -> Count:
    """Parameters of one decoder layer on one of ``tensor`` tensor-parallel ranks."""
    weights = architecture.family.layer(architecture)
    replicated = sum(weight.elements for weight in weights if weight.kind is WeightKind.REPLICATED)
    return Count((sum(weight.elements for weight in weights) - replicated) // tensor, replicated)


def of_stage(architecture: Architecture, layout: Layout, stage: int) -> Count:
    """Parameters of one rank of a pipeline stage, as megatron-core distributes them.

    Args:
        architecture: shape of the model; the layout must divide it.
        layout: tensor and pipeline parallelism.
        stage: pipeline stage, from 0.
    """
    counts = layout.stages(architecture.layers)
    assert counts is not None
    layer = of_layer(architecture, layout.tensor)
    table = layout.padded_vocab(architecture.vocab) // layout.tensor * architecture.hidden
    first, last = stage == 0, stage == layout.pipeline - 1
    # a tied output weight is the first stage's embedding; a different last stage needs a copy
    tables = first + (last and not (architecture.tied and first))
    return Count(
        sharded=counts[stage] * layer.sharded + tables * table,
        replicated=counts[stage] * layer.replicated + (architecture.hidden if last else 0),
        embedding=tables * table,
    )


def of_model(architecture: Architecture) -> int:
    """Parameters of the whole model, each counted once, without vocabulary padding."""
    return of_stage(architecture, Layout(), 0).total


@cache
def matrices_of_layer(architecture: Architecture) -> int:
    """Elements of a layer's weight matrices, which every token is multiplied with."""
    weights = architecture.family.layer(architecture)
    return sum(weight.elements for weight in weights if len(weight.shapes[0]) == 2)

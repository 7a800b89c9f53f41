# SPDX-License-Identifier: Apache-2.0
"""GPU memory that pushing weights to a server on the same GPU takes in addition to the weights."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from reasongrm_nemo.models import parameter_counts
from reasongrm_nemo.models.architecture import Architecture, Layout
from reasongrm_nemo.models.decoder import Weight, WeightKind, outside

BUCKET_BYTES = 256 * 2**20
"""Maximum size of the buffer that a rank shares with a server's worker (``rollout.weights.ipc``)."""

# copies of a parameter while ``weights.transfer`` joins it: if gathered from several ranks, if on one rank
_COPIES = {
    WeightKind.VOCABULARY: (1, 0),
    WeightKind.REPLICATED: (1, 0),
    WeightKind.ROW: (2, 0),
    WeightKind.GATE_UP: (2, 0),
    WeightKind.QKV: (2, 1),
    WeightKind.FUSED_QKV: (3, 2),
}


class Push(NamedTuple):
    """Bytes on a GPU.

    Attributes:
        copies: whole parameters that the trainer's rank joins, and tensors that the server's worker receives.
        buffer: size of the shared buffer that carries them.
    """

    copies: int
    buffer: int


NO_PUSH = Push(0, 0)


def of_push(architecture: Architecture, layout: Layout, width: int) -> Push:
    """Memory of a push.

    Args:
        architecture: shape of the model.
        layout: how the trainer shards the model.
        width: bytes per element.
    """
    whole = width * parameter_counts.of_model(architecture)
    copies = joined(architecture, layout, width) + _received(architecture, width)
    return Push(copies, min(BUCKET_BYTES, whole))


def joined(architecture: Architecture, layout: Layout, width: int) -> int:
    """Peak of a trainer's rank, in bytes: the parameter being joined and the previous one."""
    alone = layout.tensor == 1
    layer = architecture.family.layer(architecture)
    sizes = []
    for weight in (*layer, *layer, *outside(architecture)):
        copies = _COPIES[weight.kind][alone]
        kept = min(copies, 1)
        if layout.pipeline > 1:  # a stage without the parameter receives it whole
            copies, kept = max(copies, 1), 1
        size = width * _elements(weight, layout)
        sizes.append((copies * size, kept * size))
    return max(previous + joining for (_, previous), (joining, _) in itertools.pairwise([(0, 0), *sizes]))


def _received(architecture: Architecture, width: int) -> int:
    """Peak of a server's worker, in bytes: a tensor outside the layers, or a whole layer as vLLM loads it."""
    table = max(weight.elements for weight in outside(architecture))
    layer = sum(weight.elements for weight in architecture.family.layer(architecture))
    return width * max(table, layer)


def _elements(weight: Weight, layout: Layout) -> int:
    if weight.kind is WeightKind.REPLICATED:
        return weight.elements * layout.tensor
    if weight.kind is WeightKind.VOCABULARY:
        rows, columns = weight.shapes[0]
        return layout.padded_vocab(rows) * columns
    return weight.elements

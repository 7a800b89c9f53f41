# SPDX-License-Identifier: Apache-2.0
"""Mappings between Hugging Face tensors and Megatron parameters, in both directions.

A mapping describes a whole Megatron parameter, as a single rank would hold it. Tensor-parallel ranks hold
boxes of the parameter, and a box can be read from the Hugging Face tensors without the rest. Loading,
conversion and refit therefore need memory for one box at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

Box = tuple[tuple[int, int], ...]
"""A part of a tensor: for each dimension, start and stop (exclusive)."""


@dataclass(frozen=True)
class Mapping:
    """One Megatron parameter and the Hugging Face tensors that it consists of.

    Attributes:
        megatron: name in GPTModel, with ``{layer}`` for the layer's global index.
        hf: names in the Hugging Face checkpoint, with the same placeholder.
        shapes: shapes of the Hugging Face tensors, in the same order.
    """

    megatron: str
    hf: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    axis: ClassVar[int | None] = 0
    """The dimension split over tensor-parallel ranks; None if every rank holds the whole parameter."""
    sections: ClassVar[int] = 1
    """Number of equal parts along ``axis``, each split over the ranks separately."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole Megatron parameter, without padding."""
        return (sum(shape[0] for shape in self.shapes), *self.shapes[0][1:])

    def boxes(self, rank: int, size: int) -> list[Box]:
        """The boxes of the whole parameter that tensor-parallel ``rank`` of ``size`` holds, in order."""
        whole = [(0, n) for n in self.shape]
        if self.axis is None:
            return [tuple(whole)]
        length = self.shape[self.axis]
        part = length // self.sections
        width = -(-part // size)
        boxes = []
        for section in range(self.sections):
            start = min(section * part + rank * width, length)
            whole[self.axis] = (start, min(start + width, (section + 1) * part))
            boxes.append(tuple(whole))
        return boxes

    def read(self, sources: Sequence[Any], box: Box) -> Tensor:
        """Read a box of the whole parameter.

        Args:
            sources: the Hugging Face tensors, or objects that can be sliced like tensors.
            box: box of the whole parameter; must not cross a boundary between ``hf`` tensors.
        """
        rows, *columns = (slice(*span) for span in box)
        start = 0
        for source, shape in zip(sources, self.shapes, strict=True):
            if rows.start < start + shape[0]:
                return source[(slice(rows.start - start, rows.stop - start), *columns)]
            start += shape[0]
        return source[(slice(shape[0], shape[0]), *columns)]

    def split(self, whole: Tensor) -> tuple[Tensor, ...]:
        """Split the whole parameter into the Hugging Face tensors."""
        return whole.split([shape[0] for shape in self.shapes])

    def needed_for(self, index: int) -> Box:
        """The box of the whole parameter that holds the Hugging Face tensor ``index``."""
        start = sum(shape[0] for shape in self.shapes[:index])
        first, *rest = self.shapes[index]
        return ((start, start + first), *((0, n) for n in rest))

    def pick(self, box: Tensor, index: int) -> Tensor:
        """Extract the Hugging Face tensor ``index`` from the values of box ``needed_for(index)``."""
        return box

    @property
    def unit(self) -> int:
        """Boxes passed to ``read`` must hold a multiple of this number of rows."""
        return 1

    def shard(self, sources: Sequence[Any], rank: int, size: int) -> Tensor:
        """Tensor-parallel ``rank``'s shard of the parameter, zero-padded to the same size on all ranks."""
        parts = [self.read(sources, box) for box in self.boxes(rank, size)]
        shard = torch.cat(parts) if len(parts) > 1 else parts[0]
        if self.axis != 0:
            return shard
        rows = self.sections * -(-self.shape[0] // self.sections // size)
        return torch.nn.functional.pad(shard, (0, 0) * (shard.ndim - 1) + (0, rows - shard.shape[0]))

    def join(self, shards: Tensor) -> tuple[Tensor, ...]:
        """Join the shards of all tensor-parallel ranks, [ranks, ...], into whole Hugging Face tensors.

        Shards that follow each other in memory as they do in the parameter are not copied: the embedding is
        the largest tensor of a push, and there is no room for two of it.
        """
        if self.axis is None or len(shards) == 1:
            whole = shards[0]
        elif self.axis == 0 and self.sections == 1:
            whole = shards.flatten(0, 1)
        else:
            cut = [shard.chunk(self.sections, self.axis) for shard in shards]
            whole = torch.cat([rank[s] for s in range(self.sections) for rank in cut], self.axis)
        return self.split(whole[: self.shape[0]])

    def at(self, layer: int) -> tuple[str, tuple[str, ...]]:
        """Megatron name and Hugging Face names for ``layer``."""
        return self.megatron.format(layer=layer), tuple(name.format(layer=layer) for name in self.hf)


class Replicated(Mapping):
    """Norms: the whole parameter on every rank."""

    axis = None


class RowParallel(Mapping):
    """Output projections of attention and MLP: split along the input dimension."""

    axis = 1


class Vocabulary(Mapping):
    """Embedding and output: split along the vocabulary, which Megatron pads to a multiple of the ranks."""


class GateUp(Mapping):
    """Gate and up projections, stacked on every rank."""

    sections = 2


@dataclass(frozen=True)
class QKV(Mapping):
    """Query, key and value interleaved by KV group: a group's queries, then its key, then its value.

    Attributes:
        groups: key-value heads over all ranks.
    """

    groups: int

    def read(self, sources: Sequence[Any], box: Box) -> Tensor:
        """See Mapping; the box must consist of whole groups. Weights are 2-D, biases 1-D."""
        (start, stop), *columns = box
        first, last = start // self.unit, stop // self.unit
        parts = []
        for source, shape in zip(sources, self.shapes, strict=True):
            rows = shape[0] // self.groups
            part = source[(slice(first * rows, last * rows), *(slice(*span) for span in columns))]
            parts.append(part.view(last - first, rows, *part.shape[1:]))
        return torch.cat(parts, 1).flatten(0, 1)

    def needed_for(self, index: int) -> Box:
        """The whole parameter, because every tensor's rows are spread over the groups."""
        return tuple((0, n) for n in self.shape)

    def pick(self, box: Tensor, index: int) -> Tensor:
        """See Mapping."""
        return self.split(box)[index]

    @property
    def unit(self) -> int:
        """Rows per group."""
        return self.shape[0] // self.groups

    def split(self, whole: Tensor) -> tuple[Tensor, ...]:
        """See Mapping."""
        by_group = whole.view(self.groups, -1, *whole.shape[1:])
        rows = [shape[0] // self.groups for shape in self.shapes]
        return tuple(part.flatten(0, 1) for part in by_group.split(rows, 1))


@dataclass(frozen=True)
class FusedQKV(QKV):
    """Query, key and value stacked in one Hugging Face tensor.

    Attributes:
        rows: numbers of rows of query, key and value.
    """

    rows: tuple[int, int, int]

    @property
    def _apart(self) -> QKV:
        shapes = tuple((rows, *self.shapes[0][1:]) for rows in self.rows)
        return QKV(self.megatron, self.hf * 3, shapes, groups=self.groups)

    def read(self, sources: Sequence[Any], box: Box) -> Tensor:
        """See QKV."""
        starts = (0, self.rows[0], self.rows[0] + self.rows[1])
        return self._apart.read([_From(sources[0], start) for start in starts], box)

    def split(self, whole: Tensor) -> tuple[Tensor, ...]:
        """See Mapping."""
        return (torch.cat(self._apart.split(whole)),)


@dataclass(frozen=True)
class _From:
    """A view of a tensor, or of an object that can be sliced like one, from row ``first`` on."""

    whole: Any
    first: int

    def __getitem__(self, index: tuple[slice, ...]) -> Tensor:
        rows, *columns = index
        return self.whole[(slice(self.first + rows.start, self.first + rows.stop), *columns)]

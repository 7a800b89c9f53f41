# SPDX-License-Identifier: Apache-2.0
"""Typed mappings between Hugging Face tensors and Megatron's; each owns both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mapping:
    """One Megatron parameter and the Hugging Face tensors it is made of.

    Attributes:
        megatron: name in GPTModel, with ``{layer}`` for the layer's global index.
        hf: names in the Hugging Face checkpoint, with the same placeholder.
    """

    megatron: str
    hf: tuple[str, ...]

    def shard(self, tensors: Sequence[Tensor], rank: int, size: int) -> Tensor:
        """Tensor-parallel ``rank``'s share of the parameter, from whole Hugging Face tensors."""
        raise NotImplementedError

    def join(self, shards: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The whole Hugging Face tensors, from every tensor-parallel rank's share."""
        raise NotImplementedError

    def at(self, layer: int) -> tuple[str, tuple[str, ...]]:
        """Both sides' names at ``layer``."""
        return self.megatron.format(layer=layer), tuple(name.format(layer=layer) for name in self.hf)


class Replicated(Mapping):
    """The same on every rank: norms."""

    def shard(self, tensors: Sequence[Tensor], rank: int, size: int) -> Tensor:
        """See Mapping."""
        return tensors[0]

    def join(self, shards: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """See Mapping."""
        return (shards[0],)


@dataclass(frozen=True)
class RowParallel(Mapping):
    """Cut along the input dimension: attention's and the MLP's output projections."""

    def shard(self, tensors: Sequence[Tensor], rank: int, size: int) -> Tensor:
        """See Mapping."""
        return tensors[0].chunk(size, 1)[rank]

    def join(self, shards: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """See Mapping."""
        return (torch.cat(list(shards), 1),)


@dataclass(frozen=True)
class Vocabulary(Mapping):
    """Cut along the vocabulary, which Megatron pads to a multiple of the ranks: embedding and output.

    Attributes:
        size: rows in the Hugging Face tensor.
        padded: rows over all ranks; the added ones are zero and dropped on the way back.
    """

    size: int
    padded: int

    def shard(self, tensors: Sequence[Tensor], rank: int, size: int) -> Tensor:
        """See Mapping."""
        whole = torch.nn.functional.pad(tensors[0], (0, 0, 0, self.padded - self.size))
        return whole.chunk(size, 0)[rank]

    def join(self, shards: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """See Mapping."""
        return (torch.cat(list(shards), 0)[: self.size],)


@dataclass(frozen=True)
class QKV(Mapping):
    """Query, key and value, interleaved by KV group: each group's queries, then its key, then its value.

    Attributes:
        groups: key-value heads over all ranks.
        queries: query heads in a group.
        head_dim: rows of one head.
    """

    groups: int
    queries: int
    head_dim: int

    def shard(self, tensors: Sequence[Tensor], rank: int, size: int) -> Tensor:
        """See Mapping; weights are 2-D, biases 1-D."""
        rest = tensors[0].shape[1:]
        by_group = [t.view(self.groups, -1, *rest).chunk(size, 0)[rank] for t in tensors]
        return torch.cat(by_group, 1).flatten(0, 1)

    def join(self, shards: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """See Mapping."""
        rest = shards[0].shape[1:]
        heads = torch.cat(list(shards), 0).view(self.groups, self.queries + 2, self.head_dim, *rest)
        query, key, value = heads.split((self.queries, 1, 1), 1)
        return query.flatten(0, 2), key.flatten(0, 2), value.flatten(0, 2)


@dataclass(frozen=True)
class GateUp(Mapping):
    """Gate and up projections, one above the other on every rank."""

    def shard(self, tensors: Sequence[Tensor], rank: int, size: int) -> Tensor:
        """See Mapping."""
        return torch.cat([t.chunk(size, 0)[rank] for t in tensors])

    def join(self, shards: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """See Mapping."""
        halves = [s.chunk(2, 0) for s in shards]
        return torch.cat([gate for gate, _ in halves]), torch.cat([up for _, up in halves])

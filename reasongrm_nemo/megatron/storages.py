# SPDX-License-Identifier: Apache-2.0
"""Bytes of the tensors that exist, followed operation by operation."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary


class LiveStorages(TorchDispatchMode):
    """Counts every storage that an operation returns, until the last tensor on it is gone.

    The same for real tensors and fake ones; entered after a FakeTensorMode. Views and in-place results share
    a storage and count once. What an operation allocates and frees within itself is not seen.

    Args:
        known: tensors not to count.

    Attributes:
        part: what storages that come now are counted under.
        now: bytes alive.
        peak: the most they have been.
        at_peak: bytes of each part then.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.part = ""
        self.now = self.peak = 0
        self.at_peak: Counter[str] = Counter()
        self._parts: Counter[str] = Counter()
        self._seen = WeakIdKeyDictionary()
        for tensor in known:
            self._seen[tensor.untyped_storage()] = _Held("", 0)

    def count_as(self, part: str, tensor: torch.Tensor) -> None:
        """Count what ``tensor`` lies in, where it is counted, under another part from now on."""
        held = self._seen.get(tensor.untyped_storage())
        if held is not None:
            self._parts[held.part] -= held.size
            self._parts[part] += held.size
            held.part = part

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it returns."""
        out = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._count, out)
        return out

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        held = _Held(self.part, storage.nbytes())
        self._seen[storage] = held
        self.now += held.size
        self._parts[held.part] += held.size
        if self.now > self.peak:
            self.peak = self.now
            self.at_peak = self._parts.copy()
        weakref.finalize(storage, self._gone, held)

    def _gone(self, held: _Held) -> None:
        self.now -= held.size
        self._parts[held.part] -= held.size


class _Held:
    """A storage that is counted: under what, and how many bytes."""

    __slots__ = ("part", "size")

    def __init__(self, part: str, size: int) -> None:
        self.part, self.size = part, size

# SPDX-License-Identifier: Apache-2.0
"""Tracks the bytes of existing tensors, operation by operation."""

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
    """Counts every storage that an operation returns, until its last tensor is freed.

    Works for real and fake tensors; enter after a FakeTensorMode. Views and in-place results share a storage,
    which counts once. Memory that an operation allocates and frees internally is not counted.

    Args:
        known: tensors not to count.

    Attributes:
        part: part to which new storages are assigned.
        now: current bytes.
        peak: largest number of bytes so far.
        at_peak: bytes by part at the peak.
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
        """Reassign the storage of ``tensor``, if counted, to another part."""
        held = self._seen.get(tensor.untyped_storage())
        if held is not None:
            self._parts[held.part] -= held.size
            self._parts[part] += held.size
            held.part = part

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count the storages of its results."""
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
    """A counted storage: its part and size in bytes."""

    __slots__ = ("part", "size")

    def __init__(self, part: str, size: int) -> None:
        self.part, self.size = part, size

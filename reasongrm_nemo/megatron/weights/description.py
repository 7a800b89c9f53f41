# SPDX-License-Identifier: Apache-2.0
"""Reads ``.metadata``, the pickle that describes a torch_dist checkpoint's tensors, without running code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata


class _Passed:
    """Replaces an unpickled object that is not needed here."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_description(file: Any) -> Any:
    """Read a checkpoint's ``.metadata``.

    Raises:
        pickle.UnpicklingError: the file holds something else, or names files outside its folder.
    """
    metadata = _Unpickler(file).load()
    if not isinstance(metadata, Metadata):
        raise pickle.UnpicklingError(f"expected Metadata, got {type(metadata).__name__}")
    for info in (metadata.storage_data or {}).values():
        if not isinstance(info, _StorageInfo) or Path(info.relative_path).name != info.relative_path:
            raise pickle.UnpicklingError(f"a tensor is stored outside the folder: {info}")
    return metadata


class _Unpickler(pickle.Unpickler):
    """Unpickles only the classes of a checkpoint's description; other pickles could run arbitrary code."""

    _NAMES = (
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("collections", "OrderedDict"),
        ("pathlib", "PosixPath"),
    )

    def find_class(self, module: str, name: str) -> Any:
        # megatron-core stores the ranks' save plans along with the tensors' description
        if module.startswith(("megatron.core.dist_checkpointing.", "torch.distributed.checkpoint.planner")):
            return _Passed
        known = module in ("torch", "torch.distributed.checkpoint.metadata") and "." not in name
        value = super().find_class(module, name) if known else None
        described = module != "torch" and isinstance(value, type)
        if described or isinstance(value, torch.dtype):
            return value
        if (module, name) not in self._NAMES:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return super().find_class(module, name)

# SPDX-License-Identifier: Apache-2.0
"""``.metadata``, the pickle that describes a torch_dist checkpoint's tensors, read without running it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata


class _Passed:
    """Takes the place of an object that nobody here looks at."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_description(file: Any) -> Any:
    """What ``.metadata`` says of the tensors beside it.

    Raises:
        pickle.UnpicklingError: it is none, or speaks of files elsewhere.
    """
    found = _Unpickler(file).load()
    if not isinstance(found, Metadata):
        raise pickle.UnpicklingError(f"it is {type(found).__name__}, no description of tensors")
    for info in (found.storage_data or {}).values():
        if not isinstance(info, _StorageInfo) or Path(info.relative_path).name != info.relative_path:
            raise pickle.UnpicklingError(f"it says that a tensor is in {info}")
    return found


class _Unpickler(pickle.Unpickler):
    """Reads a checkpoint's description and nothing else: a pickle could otherwise run any code."""

    _NAMES = (
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("collections", "OrderedDict"),
        ("pathlib", "PosixPath"),
    )

    def find_class(self, module: str, name: str) -> Any:
        # megatron-core keeps the plans of the ranks that saved beside the tensors' description
        if module.startswith(("megatron.core.dist_checkpointing.", "torch.distributed.checkpoint.planner")):
            return _Passed
        known = module in ("torch", "torch.distributed.checkpoint.metadata") and "." not in name
        found = super().find_class(module, name) if known else None
        described = module != "torch" and isinstance(found, type)
        if described or isinstance(found, torch.dtype):
            return found
        if (module, name) not in self._NAMES:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)

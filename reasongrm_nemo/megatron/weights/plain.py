# SPDX-License-Identifier: Apache-2.0
"""Loads a torch_dist checkpoint with megatron-core without letting the checkpoint run code.

megatron-core unpickles three things: ``.metadata`` (PyTorch's description of the tensors), ``common.pt``
(unsharded state) and objects among the shards; ``metadata.json`` may name a format that unpickles more.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import maybe_load_config
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME, TorchCommonLoadStrategy
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint.api import CheckpointException

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.megatron.weights.description import read_description


def load(sharded: dict[str, Any], folder: Path, weights_alone: bool = False) -> dict[str, Any]:
    """``dist_checkpointing.load``; collective.

    Args:
        sharded: sharded state dict that describes what to load.
        folder: the checkpoint.
        weights_alone: do not read the unsharded state (``common.pt``).

    Raises:
        UserError: not a checkpoint, or one that holds more than plain data.
        CheckpointingException, KeyError: the checkpoint lacks an entry of ``sharded``.
    """
    _guard()
    _check_format(folder)
    common = _Nothing() if weights_alone else _PlainCommon()
    try:
        return dist_checkpointing.load(sharded, str(folder), common_strategy=common)  # type: ignore[no-any-return]
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError) as error:
        raise UserError(_unread(folder / ".metadata", error)) from None
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        unread = next((cause for cause in causes if isinstance(cause, pickle.UnpicklingError)), None)
        if unread is None:
            raise
        raise UserError(_unread(folder, unread)) from None


def load_common(folder: Path) -> dict[str, Any]:
    """Load the unsharded state.

    Raises:
        UserError: the file is damaged or holds more than plain data.
    """
    path = Path(folder) / COMMON_STATE_FNAME
    try:
        return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError) as error:
        raise UserError(_unread(path, error)) from None


class _PlainCommon(TorchCommonLoadStrategy):  # type: ignore[misc]
    def load_common(self, checkpoint_dir: Path) -> dict[str, Any]:
        return load_common(checkpoint_dir)


class _Nothing(TorchCommonLoadStrategy):  # type: ignore[misc]
    def load_common(self, checkpoint_dir: Path) -> dict[str, Any]:
        return {}


def _guard() -> None:
    """Restrict this process to unpickle only descriptions and plain data of checkpoints."""
    # PyTorch's switch overrules callers that ask for more
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    # the reader of .metadata has no such switch
    filesystem.pickle = SimpleNamespace(load=read_description, dump=pickle.dump)  # type: ignore[assignment]


def _check_format(folder: Path) -> None:
    path = Path(folder) / "metadata.json"
    try:
        stated = maybe_load_config(str(folder))
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{path} is damaged: {error}.") from None
    if stated is None:
        raise UserError(f"{folder} is not a torch_dist checkpoint: it has no metadata.json.")
    kinds = stated.sharded_backend, stated.common_backend
    if kinds != ("torch_dist", "torch"):
        raise UserError(
            f"{path} names the formats {kinds[0]} and {kinds[1]}, but only torch_dist and torch are read, "
            "because others can run code; convert the checkpoint with the program that wrote it"
        )


def _unread(path: Path, error: BaseException) -> str:
    first = (str(error) or type(error).__name__).splitlines()[0]
    return (
        f"{path} is damaged or holds more than plain data, which could run code, and is not loaded: {first}"
    )

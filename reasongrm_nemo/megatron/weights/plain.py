# SPDX-License-Identifier: Apache-2.0
"""megatron-core's loading of a torch_dist checkpoint, where nothing in the checkpoint can run.

By itself it unpickles three things: ``.metadata`` (PyTorch's description of the tensors), ``common.pt`` (what
is not sharded) and objects among the shards; and a ``metadata.json`` may name a format that unpickles more.
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
        sharded: what to load, as megatron-core describes it.
        folder: the checkpoint.
        weights_alone: leave out what is not sharded (``common.pt``), which then is not even read.

    Raises:
        UserError: the checkpoint holds something other than plain data, or is none.
        CheckpointingException, KeyError: it does not hold what is asked for.
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
    """What is not sharded.

    Raises:
        UserError: it is more than plain data, or damaged.
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
    """From now on this process unpickles of a checkpoint what describes it and plain data."""
    # PyTorch's own switch: it overrules each caller that asks for more
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
        raise UserError(f"{folder} is no torch_dist checkpoint: it holds no metadata.json.")
    kinds = stated.sharded_backend, stated.common_backend
    if kinds != ("torch_dist", "torch"):
        raise UserError(
            f"{path} says {kinds[0]} and {kinds[1]}, but torch_dist and torch alone are read: other formats "
            "can run code; convert the checkpoint with what wrote it"
        )


def _unread(path: Path, error: BaseException) -> str:
    first = (str(error) or type(error).__name__).splitlines()[0]
    return (
        f"{path} is damaged or holds more than plain data, and is not read, since it could run code: {first}"
    )

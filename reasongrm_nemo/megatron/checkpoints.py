# SPDX-License-Identifier: Apache-2.0
"""Training checkpoints: model, optimizer, scheduler and trainer in one torch_dist folder a step.

A checkpoint appears under its name only when whole, so a run killed while saving resumes from the one
before. Tensors are stored sharded by megatron-core's ``dist_checkpointing``; nothing is pickled by us.
"""

from __future__ import annotations

import queue
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files import sync_tree


class Checkpoints:
    """The checkpoints of one run, ``folder/step_000010``.

    Args:
        folder: where they live; shared by all ranks.
        keep: how many of the newest to keep.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = Path(folder)
        self.keep = keep

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        found = sorted(self.folder.glob("step_" + "[0-9]" * 6))
        return found[-1] if found else None

    def save(self, step: int, model: Any, scheduler: Any, trainer: dict[str, int]) -> Path:
        """Save after ``step``; collective over all ranks.

        Args:
            step: optimizer steps done.
            model: the NeMo model (its strategy knows the optimizer).
            scheduler: the learning-rate scheduler.
            trainer: plain numbers of the trainer's own state.
        """
        final = self.folder / f"step_{step:06d}"
        partial = self.folder / f".step_{step:06d}.partial"
        if _first_rank():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        dist.barrier()
        state = _template(model, is_loading=False)
        state["scheduler"] = scheduler.state_dict()
        state["trainer"] = trainer
        _save_in_this_process(state, partial)
        dist.barrier()
        if _first_rank():
            sync_tree(partial)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            for old in sorted(self.folder.glob("step_*"))[: -self.keep]:
                shutil.rmtree(old)
        dist.barrier()
        return final

    def load_latest(self, model: Any, scheduler: Any) -> dict[str, int] | None:
        """Restore the newest checkpoint in place; collective over all ranks.

        Returns:
            The trainer's state, or None where there is no checkpoint.
        """
        box = [str(self.latest() or "")]
        # the first rank decides: another may see a shared folder later
        dist.broadcast_object_list(box, 0)
        if not box[0]:
            return None
        state = dist_checkpointing.load(_template(model, is_loading=True), box[0])
        fill(model.core_module(), state, Path(box[0]))
        model.optimizers(use_pl_optimizer=False).load_state_dict(state["optimizer"])
        common = dist_checkpointing.load_common_state_dict(box[0])
        scheduler.load_state_dict(common["scheduler"])
        # a scheduler's state does not reach the optimizer until its next step
        for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        return common["trainer"]


def without_extra_state(state: dict[str, Any]) -> dict[str, Any]:
    """A state dict without ``_extra_state``: Transformer Engine's fp8 scales; without fp8 there are none."""
    return {name: value for name, value in state.items() if not name.endswith("_extra_state")}


def fill(module: torch.nn.Module, state: dict[str, Any], folder: Path) -> None:
    """Put the weights of a loaded state dict (under ``model.``) into a bare module.

    Raises:
        UserError: the checkpoint in ``folder`` lacks some.
    """
    prefix = "model."
    weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    unset = [name for name in module.state_dict() if name not in weights]
    unset = [name for name in unset if not name.endswith("_extra_state")]
    if unset:
        raise UserError(f"{folder} lacks {', '.join(unset[:5])}.")
    module.load_state_dict(weights, strict=False)


def _save_in_this_process(state: dict[str, Any], folder: Path) -> None:
    """``dist_checkpointing.save`` without the two interpreters it starts for asynchronous writing.

    Written in the foreground, results can pass through a plain queue instead of a manager process.
    """
    filesystem_async._results_queue = queue.Queue()
    dist_checkpointing.save(state, str(folder), async_sharded_save=True).execute_sync()


def _template(model: Any, is_loading: bool) -> dict[str, Any]:
    state = without_extra_state(model.sharded_state_dict())
    state["optimizer"] = model.trainer.strategy.optimizer_sharded_state_dict(is_loading=is_loading)
    return state


def _first_rank() -> bool:
    return dist.get_rank() == 0

# SPDX-License-Identifier: Apache-2.0
"""Training checkpoints: model, optimizer, scheduler and trainer state, one torch_dist folder per step.

A checkpoint gets its final name only when complete; a run killed while saving resumes from the previous
one, and a full disk ends the run with the previous one kept. megatron-core's ``dist_checkpointing`` stores
the tensors, sharded. This module pickles nothing, and loading unpickles only plain data (``weights.plain``).
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from reasongrm_nemo.errors import StageFailed, UserError
from reasongrm_nemo.files.disk import disk_full, full_disk, says_full
from reasongrm_nemo.files.documents import read_json
from reasongrm_nemo.files.shapes import NUMBER, shaped
from reasongrm_nemo.files.writes import sync_tree, write_json
from reasongrm_nemo.megatron.background_save import BackgroundSave
from reasongrm_nemo.megatron.weights import plain

Found = TypeVar("Found")
_SCORES = "scores.json"


class Checkpoints:
    """The checkpoints of one run, ``folder/step_000010``.

    Args:
        folder: folder of the checkpoints, shared by all ranks.
        keep: number of newest checkpoints to keep.
        keep_best: number of checkpoints with the highest scores to keep in addition.
        asynchronous: write from a copy in host memory while training continues.
    """

    def __init__(self, folder: Path, keep: int, keep_best: int = 0, asynchronous: bool = False) -> None:
        self.folder = Path(folder)
        self.keep, self.keep_best, self.asynchronous = keep, keep_best, asynchronous
        self.longest_save_s = 0.0  # seconds from the start of a save to its completion
        self._saving: tuple[int, float | None, BackgroundSave] | None = None
        self._began = 0.0

    def latest(self) -> Path | None:
        """The newest complete checkpoint."""
        complete = self._complete()
        return complete[-1] if complete else None

    def best(self) -> Path | None:
        """The complete checkpoint with the highest score; the newest one on a tie."""
        scores = self._scores()
        scored = [path for path in self._complete() if path.name in scores]
        return max(scored, key=lambda path: (scores[path.name], path.name), default=None)

    def save(
        self, step: int, model: Any, scheduler: Any, trainer: dict[str, Any], score: float | None = None
    ) -> None:
        """Save after ``step``; collective over all ranks.

        An asynchronous save is complete once ``poll`` or ``finish`` sees that every rank has written.

        Args:
            step: optimizer steps done.
            model: the NeMo model (its strategy holds the optimizer).
            scheduler: the learning-rate scheduler.
            trainer: the trainer's state, plain numbers.
            score: validation score at this step; higher is better.

        Raises:
            StageFailed: this checkpoint or the previous one could not be written; earlier ones are kept.
        """
        self.finish()
        self._began = time.monotonic()
        partial = self._partial(step)
        if _first_rank():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        dist.barrier()
        state = _template(model, is_loading=False)
        state["scheduler"] = scheduler.state_dict()
        state["trainer"] = trainer
        try:
            self._saving = step, score, BackgroundSave(state, partial, copy=self.asynchronous)
        except (OSError, RuntimeError) as error:
            # torch writes the state common to all ranks, and reports a full disk as a RuntimeError
            if isinstance(error, RuntimeError) and not says_full(error):
                raise
            raise StageFailed(self._unwritten(step, str(error))) from error
        if not self.asynchronous:
            self.finish()

    def poll(self) -> None:
        """Complete a save if every rank has written its part; collective.

        Raises:
            StageFailed: as ``save``.
        """
        if self._saving is None:
            return
        done = torch.tensor(int(self._saving[2].done()), device=torch.cuda.current_device())
        dist.all_reduce(done, op=dist.ReduceOp.MIN)
        if done:
            self.finish()

    def finish(self) -> None:
        """Wait for the save in progress, if any, and complete it; collective.

        Raises:
            StageFailed: as ``save``.
        """
        if self._saving is None:
            return
        (step, score, saving), self._saving = self._saving, None
        parts: list[tuple[str | None, int]] = [(None, 0)] * dist.get_world_size()
        dist.all_gather_object(parts, (saving.wait(), saving.nbytes))
        if why := next((failure for failure, _ in parts if failure), None):
            sentence = self._unwritten(step, why, sum(size for _, size in parts))
            dist.barrier()  # every rank has measured the disk
            if _first_rank():
                shutil.rmtree(self._partial(step), ignore_errors=True)
            raise StageFailed(sentence)
        saving.complete()
        dist.barrier()
        if _first_rank():
            self._appear(step, score)
        dist.barrier()
        self.longest_save_s = max(self.longest_save_s, time.monotonic() - self._began)

    def load_latest(self, model: Any, scheduler: Any) -> dict[str, Any] | None:
        """Restore the newest checkpoint in place; collective over all ranks.

        Returns:
            The trainer's state, or None if there is no checkpoint.
        """
        folder = agreed(self.latest())  # on a shared file system, ranks may see a folder at different times
        if folder is None:
            return None
        state = plain.load(_template(model, is_loading=True), folder)
        fill(model.core_module(), state, folder)
        model.optimizers(use_pl_optimizer=False).load_state_dict(state["optimizer"])
        common = plain.load_common(folder)
        scheduler.load_state_dict(common["scheduler"])
        # loading a scheduler does not update the optimizer's learning rate before the next step
        for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        return common["trainer"]

    def load_best_weights(self, model: Any) -> None:
        """Load only the weights of the best checkpoint, if there is one, into the model; collective."""
        folder = agreed(self.best())
        if folder is not None:
            state = plain.load(without_extra_state(model.sharded_state_dict()), folder, weights_alone=True)
            fill(model.core_module(), state, folder)

    def _appear(self, step: int, score: float | None) -> None:
        """Move a written checkpoint to its final name and remove checkpoints that are no longer kept."""
        partial, final = self._partial(step), self.folder / f"step_{step:06d}"
        sync_tree(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        if score is not None:
            write_json(self.folder / _SCORES, self._scores() | {final.name: score})
        complete, scores = self._complete(), self._scores()
        ranked = sorted(
            (p for p in complete if p.name in scores), key=lambda p: (scores[p.name], p.name), reverse=True
        )
        kept = {*complete[-self.keep :], *ranked[: self.keep_best]}
        for old in complete:
            if old not in kept:
                shutil.rmtree(old)

    def _complete(self) -> list[Path]:
        return sorted(self.folder.glob("step_" + "[0-9]" * 6))

    def _partial(self, step: int) -> Path:
        return self.folder / f".step_{step:06d}.partial"

    def _scores(self) -> dict[str, float]:
        path = self.folder / _SCORES
        return shaped(read_json(path), {...: NUMBER}, str(path)) if path.exists() else {}

    def _unwritten(self, step: int, why: str, needed: int | None = None) -> str:
        """The error message; must be built before the partial checkpoint is removed from a full disk."""
        kept = self.latest()
        if says_full(why) or disk_full(None, self.folder):
            why = f"{full_disk(self.folder, needed)}; free some space and run the same command again"
        before = (
            f"{kept.name} is kept, and the same command resumes from there"
            if kept
            else "there is no earlier checkpoint; the same command starts over, reusing the saved rollouts"
        )
        return f"the checkpoint of step {step} could not be written to {self.folder}: {why}; {before}"


def without_extra_state(state: dict[str, Any]) -> dict[str, Any]:
    """Drop ``_extra_state`` from a state dict: Transformer Engine's fp8 scales, empty without fp8."""
    return {name: value for name, value in state.items() if not name.endswith("_extra_state")}


def fill(module: torch.nn.Module, state: dict[str, Any], folder: Path) -> None:
    """Load the ``model.`` entries of a loaded state dict into a bare module.

    Raises:
        UserError: weights are missing in the checkpoint at ``folder``.
    """
    prefix = "model."
    weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    unset = [name for name in module.state_dict() if name not in weights]
    unset = [name for name in unset if not name.endswith("_extra_state")]
    if unset:
        raise UserError(f"{folder} lacks {', '.join(unset[:5])}.")
    module.load_state_dict(weights, strict=False)


def _template(model: Any, is_loading: bool) -> dict[str, Any]:
    state = without_extra_state(model.sharded_state_dict())
    state["optimizer"] = model.trainer.strategy.optimizer_sharded_state_dict(is_loading=is_loading)
    return state


def agreed(value: Found) -> Found:
    """Broadcast the first rank's value to every rank."""
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def _first_rank() -> bool:
    return dist.get_rank() == 0

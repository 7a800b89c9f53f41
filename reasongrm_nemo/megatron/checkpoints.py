# SPDX-License-Identifier: Apache-2.0
"""Training checkpoints: model, optimizer, scheduler and trainer in one torch_dist folder a step.

A checkpoint appears under its name only when whole, so a run killed while saving resumes from the one
before. Tensors are stored sharded by megatron-core's ``dist_checkpointing``; nothing is pickled by us,
and nothing unpickled but plain data (``weights.plain``).
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
        folder: where they live; shared by all ranks.
        keep: how many of the newest to keep.
        keep_best: how many of those with the highest scores to keep besides.
        asynchronous: write from a copy in host memory while training goes on.
    """

    def __init__(self, folder: Path, keep: int, keep_best: int = 0, asynchronous: bool = False) -> None:
        self.folder = Path(folder)
        self.keep, self.keep_best, self.asynchronous = keep, keep_best, asynchronous
        self.longest_save_s = 0.0  # from its beginning until it was whole
        self._saving: tuple[int, float | None, BackgroundSave] | None = None
        self._began = 0.0

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        found = self._whole()
        return found[-1] if found else None

    def best(self) -> Path | None:
        """The whole checkpoint with the highest score; the newest of several."""
        scores = self._scores()
        scored = [path for path in self._whole() if path.name in scores]
        return max(scored, key=lambda path: (scores[path.name], path.name), default=None)

    def save(
        self, step: int, model: Any, scheduler: Any, trainer: dict[str, Any], score: float | None = None
    ) -> None:
        """Save after ``step``; collective over all ranks.

        An asynchronous save is whole once ``poll`` or ``finish`` has found it written by every rank.

        Args:
            step: optimizer steps done.
            model: the NeMo model (its strategy knows the optimizer).
            scheduler: the learning-rate scheduler.
            trainer: plain numbers of the trainer's own state.
            score: of a validation at this step, the higher the better.

        Raises:
            StageFailed: this one or the one before could not be written; earlier ones are kept.
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
            # torch writes what all ranks have in common, and says a full disk as a RuntimeError
            if isinstance(error, RuntimeError) and not says_full(error):
                raise
            raise StageFailed(self._unwritten(step, str(error))) from error
        if not self.asynchronous:
            self.finish()

    def poll(self) -> None:
        """Complete a save that every rank has written by now; collective.

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
        """Wait for a save that is under way and complete it; collective.

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
            dist.barrier()  # each has looked at the disk
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
            The trainer's state, or None where there is no checkpoint.
        """
        folder = agreed(self.latest())  # another rank may see a shared folder later
        if folder is None:
            return None
        state = plain.load(_template(model, is_loading=True), folder)
        fill(model.core_module(), state, folder)
        model.optimizers(use_pl_optimizer=False).load_state_dict(state["optimizer"])
        common = plain.load_common(folder)
        scheduler.load_state_dict(common["scheduler"])
        # a scheduler's state does not reach the optimizer until its next step
        for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        return common["trainer"]

    def load_best_weights(self, model: Any) -> None:
        """Put the weights of the best checkpoint into the model, and nothing else of it; collective."""
        folder = agreed(self.best())
        if folder is not None:
            state = plain.load(without_extra_state(model.sharded_state_dict()), folder, weights_alone=True)
            fill(model.core_module(), state, folder)

    def _appear(self, step: int, score: float | None) -> None:
        """Put a written checkpoint in its place, and remove those that are no longer kept."""
        partial, final = self._partial(step), self.folder / f"step_{step:06d}"
        sync_tree(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        if score is not None:
            write_json(self.folder / _SCORES, self._scores() | {final.name: score})
        whole, scores = self._whole(), self._scores()
        ranked = sorted(
            (p for p in whole if p.name in scores), key=lambda p: (scores[p.name], p.name), reverse=True
        )
        kept = {*whole[-self.keep :], *ranked[: self.keep_best]}
        for old in whole:
            if old not in kept:
                shutil.rmtree(old)

    def _whole(self) -> list[Path]:
        return sorted(self.folder.glob("step_" + "[0-9]" * 6))

    def _partial(self, step: int) -> Path:
        return self.folder / f".step_{step:06d}.partial"

    def _scores(self) -> dict[str, float]:
        path = self.folder / _SCORES
        return shaped(read_json(path), {...: NUMBER}, str(path)) if path.exists() else {}

    def _unwritten(self, step: int, why: str, needed: int | None = None) -> str:
        """The sentence, made while what was written still fills the disk."""
        kept = self.latest()
        if says_full(why) or disk_full(None, self.folder):
            why = f"{full_disk(self.folder, needed)}; free some and give the same command again"
        before = (
            f"{kept.name} is kept, and the same command goes on from there"
            if kept
            else "it is the first, and the same command begins again with the rollouts that are kept"
        )
        return f"the checkpoint of step {step} could not be written to {self.folder}: {why}; {before}"


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


def _template(model: Any, is_loading: bool) -> dict[str, Any]:
    state = without_extra_state(model.sharded_state_dict())
    state["optimizer"] = model.trainer.strategy.optimizer_sharded_state_dict(is_loading=is_loading)
    return state


def agreed(value: Found) -> Found:
    """The first rank's, on every rank."""
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def _first_rank() -> bool:
    return dist.get_rank() == 0

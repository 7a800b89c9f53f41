# SPDX-License-Identifier: Apache-2.0
"""NeMo-Aligner's SupervisedTrainer with this package's data, checkpoints and metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from megatron.core import parallel_state
from nemo_aligner.algorithms.supervised import SupervisedTrainer
from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.megatron.balance import costs, share
from reasongrm_nemo.megatron.early_stop import EarlyStop
from reasongrm_nemo.megatron.finite_steps import FiniteSteps, NotFinite
from reasongrm_nemo.megatron.micro_batches import Sample
from reasongrm_nemo.megatron.session import Session
from reasongrm_nemo.megatron.training_run import TrainingRun
from reasongrm_nemo.sft.data import SeededBatchSampler, make_dataloader


def make_trainer(
    session: Session,
    recipe: DictConfig,
    samples: Sequence[Sample],
    held_out: Sequence[Sample],
    run: TrainingRun,
) -> SFTTrainer:
    """Build the trainer and resume from the newest checkpoint, if any; collective.

    Args:
        session: the model with its optimizer on this rank.
        recipe: resolved recipe of stage ``sft``.
        samples: all training samples.
        held_out: all validation samples; may be empty if the recipe does not validate.
        run: logs, saves and decides when to stop early.
    """
    cfg = recipe.sft
    session.model.token_budget = cfg.max_tokens_per_micro_batch
    state = run.checkpoints.load_latest(session.model, session.scheduler)
    run.metrics.resume(state["step"] if state else 0)
    rank, ranks = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()

    def costs_of(chosen: Sequence[Sample]) -> list[float]:
        sequences = ((len(sample.tokens), sample.response_length) for sample in chosen)
        return costs(recipe, session.architecture, sequences)

    sampler = SeededBatchSampler(
        costs=costs_of(samples),
        done=state["step"] if state else 0,
        batch_size=cfg.batch_size,
        rank=rank,
        ranks=ranks,
        seed=recipe.seed,
        shuffle=cfg.shuffle,
    )
    early_stop = EarlyStop(cfg.validation.patience)
    if state:
        early_stop.load_state_dict(state["early_stop"])
    mine = share(costs_of(held_out), ranks)[rank]
    trainer = SFTTrainer(
        sampler,
        cfg=_options(cfg),
        model=session.model,
        optimizer=session.optimizer,
        scheduler=session.scheduler,
        train_dataloader=make_dataloader(samples, sampler),
        # one global batch, in which every held-out token has the same weight
        val_dataloader=[{"samples": [held_out[i] for i in mine]}],
        test_dataloader=None,
        logger=_Logger(run, early_stop),
        ckpt_callback=_Saver(run, session, early_stop),
        run_timer=_Timer(run),
    )
    if state:
        trainer.load_state_dict(state)
    return trainer


def _options(cfg: DictConfig) -> DictConfig:
    """What SupervisedTrainer reads of its ``cfg``, from the recipe's ``sft`` block."""
    return OmegaConf.create(
        {
            "max_epochs": cfg.epochs,
            "max_steps": -1,
            "val_check_interval": cfg.validation.every,
            "save_interval": cfg.save_every,
            "limit_train_batches": 1.0,
            "limit_val_batches": 1 if cfg.validation.every else 0,
            "gradient_clip_val": cfg.optim.clip_grad,
        }
    )


class SFTTrainer(SupervisedTrainer):
    """SupervisedTrainer with early stopping, a reason for stopping, and no update on non-finite values.

    SupervisedTrainer itself would apply an update whose loss or gradient is not finite.
    """

    def __init__(self, sampler: SeededBatchSampler, **parts: Any) -> None:
        super().__init__(**parts)
        self.sampler, self.finite = sampler, FiniteSteps()
        self.num_steps_per_epoch = sampler.steps  # SupervisedTrainer would not count a smaller last batch
        self.set_max_steps()

    def fit(self) -> str | None:
        """Train to the end; return why the run stopped early, or None.

        Raises:
            NotFinite: the loss was not finite several times in a row; a checkpoint was saved.
        """
        saver = self.ckpt_callback
        if not saver.early_stop.reached():  # else the run was killed between last checkpoint and export
            try:
                super().fit()
                self.finite.check(self.step)
            except _NoLongerBetter as end:
                self.save({"val_loss": torch.tensor(end.loss)}, is_train_end=True)
            except NotFinite:
                self.save(is_train_end=True)
                saver.run.checkpoints.finish()
                raise
        saver.run.checkpoints.finish()
        return self.run_timer.reason

    def train_single_step(self, batch: dict[str, list[Sample]]) -> tuple[float, dict[str, Any]]:
        """Run one optimizer step; skip the update if the loss or a gradient is not finite.

        Raises:
            NotFinite: the last three steps were skipped.
        """
        self.finite.check(self.step)
        # SupervisedTrainer counts consumed samples by this value
        self.model.cfg.global_batch_size = self.sampler.size(self.step)
        self.optimizer.zero_grad()
        self.model.prepare_for_training_step()
        loss, metrics = self.model.get_loss_and_metrics(batch=batch, forward_only=False)
        self.model.finish_training_step()
        norm = self.model.clip_gradients(self.cfg.gradient_clip_val)
        figures = metrics | {"lr": self.optimizer.param_groups[0]["lr"]}
        if norm is not None:
            figures["grad_norm"] = norm
        self.finite.step(self.optimizer, loss, norm)
        self.scheduler.step()
        return loss, figures | {"skipped": self.finite.skipped}


class _NoLongerBetter(Exception):
    """Validation stopped improving; raised because SupervisedTrainer has no early stopping."""

    def __init__(self, loss: float) -> None:
        super().__init__(loss)
        self.loss = loss


class _Timer:
    """Replaces NeMo-Aligner's timer, which the trainer asks after each step whether to save and stop."""

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.reason: str | None = None
        self._began = 0.0

    def start_time(self) -> None:
        self._began = time.monotonic()

    def is_finished(self) -> bool:
        took, self._began = time.monotonic() - self._began, time.monotonic()
        self.run.checkpoints.poll()
        self.reason = self.run.reason_to_stop(took)
        return self.reason is not None


class _Saver:
    """Replaces NeMo's checkpoint callback."""

    def __init__(self, run: TrainingRun, session: Session, early_stop: EarlyStop) -> None:
        self.run, self.session, self.early_stop = run, session, early_stop

    def custom_save(self, monitor_candidates: dict[str, torch.Tensor], is_train_end: bool) -> None:
        state: dict[str, Any] = {
            name: int(monitor_candidates[name]) for name in ("step", "consumed_samples", "epoch")
        }
        state["early_stop"] = self.early_stop.state_dict()
        loss = monitor_candidates.get("val_loss")
        score = None if loss is None else -float(loss)
        self.run.checkpoints.save(state["step"], self.session.model, self.session.scheduler, state, score)


class _Logger:
    """Replaces NeMo-Aligner's logger wrapper."""

    def __init__(self, run: TrainingRun, early_stop: EarlyStop) -> None:
        self.metrics, self.early_stop = run.metrics, early_stop

    def log_metrics(self, figures: dict[str, Any], step: int, prefix: str = "") -> None:
        # SupervisedTrainer logs a step before counting it, but a validation after
        if prefix == "train/":
            self.metrics.log(step + 1, figures)
        else:
            self.early_stop.note(-figures["loss"])
            best = {"best": -self.early_stop.best} if self.early_stop.best is not None else {}
            self.metrics.log_validation(step, {"loss": figures["loss"]} | best)
            if self.early_stop.reached():
                raise _NoLongerBetter(figures["loss"])

    def finalize(self) -> None:
        pass

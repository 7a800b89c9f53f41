# SPDX-License-Identifier: Apache-2.0
"""NeMo-Aligner's SupervisedTrainer with our data, checkpoints and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from megatron.core import parallel_state
from nemo_aligner.algorithms.supervised import SupervisedTrainer
from nemo_aligner.utils.distributed import Timer
from omegaconf import DictConfig, OmegaConf

from reasongrm_nemo.megatron.checkpoints import Checkpoints
from reasongrm_nemo.megatron.metrics import MetricsLog
from reasongrm_nemo.megatron.micro_batches import Sample
from reasongrm_nemo.megatron.session import Session
from reasongrm_nemo.sft.data import SeededBatchSampler, batch_size, make_dataloader


def make_trainer(
    session: Session,
    recipe: DictConfig,
    samples: Sequence[Sample],
    checkpoints: Checkpoints,
    metrics: MetricsLog,
) -> SupervisedTrainer:
    """The trainer, resumed from the newest checkpoint where there is one; collective."""
    cfg = recipe.sft
    session.model.token_budget = cfg.max_tokens_per_micro_batch
    state = checkpoints.load_latest(session.model, session.scheduler)
    metrics.resume(state["step"] if state else 0)
    size = batch_size(len(samples), cfg)
    # SupervisedTrainer counts consumed samples by this
    session.model.cfg.global_batch_size = size
    sampler = SeededBatchSampler(
        total=len(samples),
        consumed=state["consumed_samples"] if state else 0,
        batch_size=size,
        rank=parallel_state.get_data_parallel_rank(),
        size=parallel_state.get_data_parallel_world_size(),
        seed=recipe.seed,
        shuffle=cfg.shuffle,
    )
    options = {
        "max_epochs": cfg.epochs,
        "max_steps": -1,
        "val_check_interval": 0,
        "save_interval": cfg.save_every,
        "limit_train_batches": 1.0,
        "limit_val_batches": 0,
        "gradient_clip_val": cfg.optim.clip_grad,
    }
    trainer = SupervisedTrainer(
        cfg=OmegaConf.create(options),
        model=session.model,
        optimizer=session.optimizer,
        scheduler=session.scheduler,
        train_dataloader=make_dataloader(samples, sampler),
        val_dataloader={"validation": []},
        test_dataloader=None,
        logger=_Logger(metrics),
        ckpt_callback=_Saver(checkpoints, session),
        run_timer=Timer(None),
    )
    if state:
        trainer.load_state_dict(state)
    return trainer


class _Saver:
    """Takes the place of NeMo's checkpoint callback."""

    def __init__(self, checkpoints: Checkpoints, session: Session) -> None:
        self.checkpoints, self.session = checkpoints, session

    def custom_save(self, monitor_candidates: dict[str, torch.Tensor], is_train_end: bool) -> None:
        state = {name: int(monitor_candidates[name]) for name in ("step", "consumed_samples", "epoch")}
        self.checkpoints.save(state["step"], self.session.model, self.session.scheduler, state)


class _Logger:
    """Takes the place of NeMo-Aligner's logger wrapper."""

    def __init__(self, metrics: MetricsLog) -> None:
        self.metrics = metrics

    def log_metrics(self, figures: dict[str, Any], step: int, prefix: str = "") -> None:
        # SupervisedTrainer logs before it counts the step
        if prefix == "train/":
            self.metrics.log(step + 1, figures)

    def finalize(self) -> None:
        pass

# SPDX-License-Identifier: Apache-2.0
"""Which steps SFT takes: none with a non-finite loss, and none after the last."""

import math
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from reasongrm_nemo.megatron.early_stop import EarlyStop
from reasongrm_nemo.megatron.finite_steps import FiniteSteps, NotFinite
from reasongrm_nemo.sft.trainer import SFTTrainer


@pytest.fixture
def trainer():
    """A trainer without ranks: ``train`` takes losses and fills ``updates`` and ``saved``."""
    self = SFTTrainer.__new__(SFTTrainer)
    self.updates, self.saved, self.losses = [], [], iter(())
    self.finite, self.step = FiniteSteps(), 0
    self.cfg = OmegaConf.create({"gradient_clip_val": 1.0})
    self.optimizer = SimpleNamespace(
        zero_grad=lambda: None, step=lambda: self.updates.append(self.step), param_groups=[{"lr": 0.1}]
    )
    self.scheduler = SimpleNamespace(step=lambda: None)
    self.sampler = SimpleNamespace(size=lambda step: [4, 4, 3][step % 3])
    self.model = SimpleNamespace(
        cfg=SimpleNamespace(global_batch_size=0),
        prepare_for_training_step=lambda: None,
        finish_training_step=lambda: None,
        get_loss_and_metrics=lambda batch, forward_only: (next(self.losses), {"tokens": 9}),
        clip_gradients=lambda limit: 2.0,
    )
    checkpoints = SimpleNamespace(finish=lambda: None)
    self.run_timer = SimpleNamespace(reason=None)
    self.ckpt_callback = SimpleNamespace(
        early_stop=EarlyStop(1), run=SimpleNamespace(checkpoints=checkpoints)
    )
    self.save = lambda *_, **__: self.saved.append(self.step)
    return self


@pytest.fixture
def steps(monkeypatch):
    """SupervisedTrainer's loop, reduced to its steps."""

    def fit(self):
        for _ in range(6):
            self.train_single_step({"samples": []})
            self.step += 1

    monkeypatch.setattr("reasongrm_nemo.sft.trainer.SupervisedTrainer.fit", fit)


def test_a_step_with_a_non_finite_loss_is_skipped_and_counted(trainer):
    trainer.losses = iter([1.0, math.nan, math.inf, 0.5])
    figures = [trainer.train_single_step({"samples": []})[1] for _ in range(4)]
    assert [line["skipped"] for line in figures] == [0, 1, 2, 0]
    assert len(trainer.updates) == 2
    assert figures[0] == {"tokens": 9, "lr": 0.1, "grad_norm": 2.0, "skipped": 0}


def test_consumed_samples_are_counted_by_a_step_s_examples(trainer):
    trainer.losses, counted = iter([1.0] * 4), []
    for trainer.step in range(4):
        trainer.train_single_step({"samples": []})
        counted.append(trainer.model.cfg.global_batch_size)
    assert counted == [4, 4, 3, 4]


def test_three_in_a_row_end_the_run_with_a_checkpoint(trainer, steps):
    trainer.losses = iter([1.0, math.nan, math.nan, math.nan])
    with pytest.raises(NotFinite, match="3 times in a row"):
        trainer.fit()
    assert trainer.updates == [0] and trainer.saved == [4]


def test_three_at_the_end_of_a_run_too(trainer, steps):
    trainer.losses = iter([1.0, 1.0, 1.0, math.nan, math.nan, math.nan])
    with pytest.raises(NotFinite):
        trainer.fit()


def test_a_run_that_had_reached_its_last_step_trains_no_further(trainer, steps):
    """The run was killed between its last checkpoint and the export."""
    for score in (0.5, 0.4):
        trainer.ckpt_callback.early_stop.note(score)
    assert trainer.fit() is None
    assert trainer.step == 0

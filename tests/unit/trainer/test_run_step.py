# SPDX-License-Identifier: Apache-2.0
"""What a step asks of the servers beside rollouts, and in which order."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from reasongrm_nemo.grpo import trainer as trainers
from reasongrm_nemo.grpo.trainer import GRPOTrainer
from reasongrm_nemo.megatron.timers import Timers


@pytest.fixture
def asked(monkeypatch):
    """A function that runs both steps of a run and gives what was asked, in order."""
    figures = {"response_tokens": 1.0, "groups": 1}
    monkeypatch.setattr(trainers, "rollout_figures", lambda groups: dict(figures))

    def run(validation=None, sleep=False, max_lag=0):
        events = []
        self = GRPOTrainer.__new__(GRPOTrainer)
        cfg = {"steps": 2, "max_lag": max_lag, "prompts_per_step": 1, "samples_per_prompt": 2}
        self.cfg = OmegaConf.create(cfg)
        self.recipe = OmegaConf.create({"rollout": {"sleep": sleep}})
        self.step = self.taken = self.asked = 0
        self.validation = validation
        self.actor = SimpleNamespace(timers=Timers())
        self.metrics = SimpleNamespace(log=lambda step, figures: None)
        self.rollouts = lambda: [SimpleNamespace(kept=True)]
        self._look_ahead = lambda: None
        self.train = lambda groups: events.append("train") or {}
        note = {name: lambda name=name: events.append(name) for name in ("pause", "sleep", "push")}
        self.source = SimpleNamespace(**note)
        self.run_step()
        self.run_step()
        return events

    return run


def test_servers_are_paused_only_where_a_push_lets_them_go_on(asked):
    """Servers outlive a stage: after its last step the next one asks them."""
    assert asked() == ["pause", "train", "push", "train"]
    assert asked(validation=object()) == ["pause", "train", "push"] * 2


def test_servers_with_rollouts_under_way_are_not_paused(asked):
    assert asked(max_lag=1) == ["train", "push", "train"]


def test_servers_that_sleep_are_not_paused(asked):
    assert asked(sleep=True) == ["sleep", "train", "push", "sleep", "train"]

# SPDX-License-Identifier: Apache-2.0
"""What a step asks of the servers besides rollouts, and in which order."""

import math
from collections import Counter
from types import MethodType, SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from reasongrm_nemo.grpo import trainer as trainers
from reasongrm_nemo.grpo.agreement import Agreement, Disagreement
from reasongrm_nemo.grpo.source import RolloutsLost
from reasongrm_nemo.grpo.trainer import GRPOTrainer
from reasongrm_nemo.megatron.early_stop import EarlyStop
from reasongrm_nemo.megatron.finite_steps import FiniteSteps, NotFinite
from reasongrm_nemo.megatron.timers import Timers
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.plan import memory
from reasongrm_nemo.plan.serving import server
from reasongrm_nemo.recipe.load import load_recipe, recipes_root, resolve_path

RECIPE = recipes_root() / "tiny" / "1_grpo_zero.yaml"


@pytest.fixture
def asked(monkeypatch):
    """A function that runs a run of two steps and returns the requests in order."""
    figures = {"response_tokens": 1.0, "groups": 1}
    monkeypatch.setattr(trainers, "rollout_figures", lambda groups: dict(figures))

    def run(validation=None, sleep=False, max_lag=0):
        events = []
        self = GRPOTrainer.__new__(GRPOTrainer)
        cfg = {"steps": 2, "max_lag": max_lag, "prompts_per_step": 1, "samples_per_prompt": 2}
        cfg["optimizer_steps"] = 1
        self.cfg = OmegaConf.create(cfg)
        self.recipe = OmegaConf.create({"rollout": {"sleep": sleep}})
        self.step = self.taken = self.asked = 0
        self.validation = validation
        self.actor = SimpleNamespace(timers=Timers())
        self.scheduler = LambdaLR(AdamW([torch.zeros(1)]), lambda step: 1.0)
        self.metrics = SimpleNamespace(log=lambda step, figures: None)
        self.rollouts = lambda: [SimpleNamespace(kept=True, completions=[])]
        self.agreement = Agreement(load_recipe(RECIPE))
        self._look_ahead = lambda: None
        self.train = lambda groups: events.append("train") or {}
        note = {name: lambda *_, name=name: events.append(name) for name in ("pause", "sleep", "push")}
        self.source = SimpleNamespace(losses=lambda: 0, **note)
        self.run_step()
        self.run_step()
        return events

    return run


def test_servers_are_paused_only_if_a_push_resumes_them(asked):
    """Servers outlive a stage: after its last step the next stage uses them."""
    assert asked() == ["pause", "train", "push", "train"]
    assert asked(validation=object()) == ["pause", "train", "push"] * 2


def test_servers_with_rollouts_under_way_are_not_paused(asked):
    assert asked(max_lag=1) == ["train", "push", "train"]


def test_servers_that_sleep_are_not_paused(asked):
    assert asked(sleep=True) == ["sleep", "train", "push", "sleep", "train"]


def a_trainer():
    """A trainer with a real scheduler that learns nothing and saves (step, tasks taken) to a list."""
    self = GRPOTrainer.__new__(GRPOTrainer)
    cfg = {"steps": 4, "save_every": 9, "max_lag": 0, "prompts_per_step": 1, "samples_per_prompt": 2}
    cfg |= {"optimizer_steps": 2, "refill_rounds": 0, "kl_coefficient": 0.0, "validation": {"every": 0}}
    self.cfg = OmegaConf.create(cfg)
    self.recipe = OmegaConf.create({"rollout": {"sleep": False}, "model": {"megatron_path": None}})
    self.step = self.taken = self.asked = 0
    self.validation, self.finite, self.early_stop = None, FiniteSteps(), EarlyStop(0)
    self.actor = SimpleNamespace(timers=Timers(), finish_training=lambda: None)
    self.scheduler = LambdaLR(AdamW([torch.zeros(1)]), lambda step: 1.0)
    self.metrics = SimpleNamespace(
        log=lambda step, figures: self.logged.append(step), resume=lambda step: None
    )
    self.checkpoints = SimpleNamespace(
        load_latest=lambda *_: None, poll=lambda: None, finish=lambda: None, longest_save_s=0.0
    )
    self.source = SimpleNamespace(
        pause=lambda: None, push=lambda version: self.pushed.append(version), losses=lambda: 0
    )
    self.agreement = Agreement(load_recipe(RECIPE))
    self.reason_to_stop = lambda seconds: None
    self.saved, self.logged, self.pushed = [], [], []
    self.save = lambda score=None: self.saved.append((self.step, self.taken))
    self._look_ahead = lambda: None

    def rollouts():
        self.asked = 3
        return [SimpleNamespace(kept=True, completions=[])]

    self.rollouts = rollouts
    self.train = lambda groups: {}
    return self


@pytest.fixture
def given_figures(monkeypatch):
    monkeypatch.setattr(trainers, "rollout_figures", lambda groups: {"response_tokens": 1.0, "groups": 1})


def test_spare_groups_and_lost_servers_are_counted(given_figures):
    """Refills may keep more groups than a step takes; a server may be lost at any time."""
    self, lines = a_trainer(), []
    self.metrics.log = lambda step, figures: lines.append(figures)
    self.rollouts = lambda: [SimpleNamespace(kept=i != 1, completions=[]) for i in range(4)]
    self.source.losses = iter([2, 0, 0, 1]).__next__
    self.fit()
    assert [(line["kept"], line["spare_groups"]) for line in lines] == [(1, 2)] * 4
    assert [line["servers_lost"] for line in lines] == [2, 0, 0, 1]


def test_a_failed_push_leaves_a_checkpoint_after_the_step(given_figures):
    """The resumed run must not train on the same batch again."""
    self = a_trainer()

    def push(version):
        assert version == self.step
        if self.step == 2:
            raise RolloutsLost("gone")

    self.source.push = push
    with pytest.raises(RolloutsLost):
        self.fit()
    assert self.saved == [(2, 6)]
    assert self.logged == [1, 2], "the step that was trained has its line"


def test_the_learning_rate_advances_on_steps_without_an_update(given_figures):
    self = a_trainer()
    self.compare = lambda groups: {}
    self.rollouts = lambda: [SimpleNamespace(kept=self.step % 2 == 0, completions=[])]
    self.train = lambda groups: self.scheduler.step() or {}  # fewer parts than optimizer_steps
    self.fit()
    assert self.scheduler.last_epoch == self.step * 2 == 8


def test_three_non_finite_updates_end_the_run_after_a_complete_step(given_figures):
    """The resumed run repeats no update of a step that has several."""
    self = a_trainer()
    losses = iter([1.0, math.nan, math.nan, math.nan])
    optimizer = SimpleNamespace(step=lambda: self.updates.append(self.step))
    self.updates = []

    def train(groups):
        for _ in range(2):
            self.finite.step(optimizer, next(losses), 1.0)
        return {}

    self.train = train
    with pytest.raises(NotFinite, match=r"step 2: .* 3 times in a row"):
        self.fit()
    assert self.updates == [0] and self.saved == [(2, 6)]


def test_a_steps_metrics_hold_the_kl_in_the_reward_and_every_skipped_update():
    self = a_trainer()
    self.cfg = OmegaConf.merge(self.cfg, {"kl_coefficient": 0.1, "kl_in": "reward"})
    samples = [SimpleNamespace(response_length=length) for length in (3, 5)]
    self._samples = lambda groups, kl=None: samples
    self._kl_of = lambda samples: [3.0, 1.0]
    self._prepare = lambda part: {}
    self.actor.prepare_for_training = lambda: None
    sampler = {"entropy": 0.5, "log_prob_error_mean": 0.5, "log_prob_error_max": 0.5}
    lines = iter([{"kl": 0.0, "skipped": 1} | sampler, {"kl": 0.0, "skipped": 0} | sampler])
    self.train_batch = lambda batch, first: next(lines)
    line = GRPOTrainer.train(self, [])
    assert line["kl"] == 4 / 8 and line["skipped"] == 1


def a_batch_of(gap):
    """A trainer whose next batch differs from the sampler by ``gap`` nats, and the list of its updates."""
    self, updates = a_trainer(), []
    self.cfg = OmegaConf.merge(self.cfg, {"optim": {"clip_grad": 1.0}})
    nothing = dict.fromkeys(("prepare_for_training_step", "finish_training_step"), lambda: None)
    metrics = {"log_prob_error_mean": gap, "log_prob_error_max": 3 * gap}
    self.actor = SimpleNamespace(
        timers=Timers(),
        clip_gradients=lambda limit: 1.0,
        get_loss_and_metrics=lambda batch, forward_only: (0.5, dict(metrics)),
        finish_training=lambda: None,
        **nothing,
    )
    self.optimizer = SimpleNamespace(
        zero_grad=lambda: None, step=lambda: updates.append(self.step), param_groups=[{"lr": 1.0}]
    )
    self._samples = self._share = lambda groups: groups
    self.age = 0
    return self, updates


def test_a_gap_past_the_bound_stops_the_run_before_the_update():
    self, updates = a_batch_of(1.7)
    with pytest.raises(Disagreement, match=r"step 1: .* by 1\.7 nats per token on average \(at most 5\.1\)"):
        self.train_batch({}, first=True)
    with pytest.raises(Disagreement):
        self.compare([])
    assert updates == []


def test_a_smaller_gap_causes_a_warning_and_is_trained_on():
    self, updates = a_batch_of(0.002)
    assert "grpo.log_prob_gap.warn.fp32 0.0001" in self.train_batch({}, first=True)["warning"]
    assert "warning" in self.compare([])
    assert updates == [0]


def test_only_the_first_update_is_compared_with_the_sampler():
    """After the first update the policy differs from the sampler's by design."""
    self, updates = a_batch_of(1.7)
    assert "warning" not in self.train_batch({}, first=False)
    assert updates == [0]


def test_a_run_ended_by_disagreement_leaves_a_checkpoint_before_the_step(given_figures):
    self = a_trainer()

    def train(groups):
        if self.step == 2:
            raise Disagreement("gap")
        return {}

    self.train = train
    with pytest.raises(Disagreement):
        self.fit()
    assert self.saved == [(2, 6)] and self.logged == [1, 2]


def test_rollouts_from_older_weights_than_the_recipe_allows_stop_the_run(given_figures):
    """The weight version that a server reports counts, not the one that was pushed."""
    self = a_trainer()
    served = {0: 0, 1: 1, 2: 1}
    self.rollouts = lambda: [
        SimpleNamespace(kept=True, completions=[SimpleNamespace(weight_version=served[self.step])])
    ]
    with pytest.raises(Disagreement, match=r"step 3: a server sampled with weights 1 step old"):
        self.fit()
    assert self.saved == [(2, 0)] and self.pushed == [1, 2]


def test_a_gpu_holds_what_the_plan_says_between_the_steps(given_figures):
    """QwQ's states through a resume, two steps and their saves; its servers sleep during training."""
    recipe = load_recipe(recipes_root() / "qwq_32b" / "1_grpo_zero.yaml")
    shape = Architecture.from_folder(resolve_path("asset:configs/qwq_32b", "."))
    ranks = memory.ranks(recipe, shape)
    planned = memory.moments(recipe, ranks, server(recipe, shape))
    largest = max(ranks, key=lambda rank: rank.states.total)
    self, held, seen = a_trainer(), Counter(), {}

    def at(moment):
        seen[moment] = max(seen.get(moment, 0), sum(held.values()))

    def move(onto_gpu):
        held["optimizer"] = largest.states.optimizer if onto_gpu else 0

    def load(*_):
        held.update(weights=largest.states.weights, gradients=largest.states.gradients)
        held["server"] = server(recipe, shape).share  # up before the trainer
        move(onto_gpu=True)
        at("resume")
        return {"step": 2, "taken": 6, "early_stop": self.early_stop.state_dict()}

    def push(version):
        held.update(copies=largest.push.copies, buffer=largest.push.buffer)
        held["server"] = server(recipe, shape).share  # awake; in later pushes only its weights are
        at("push")
        del held["copies"]
        at("wake")
        del held["buffer"]

    def sleep():
        at("rollouts")
        held["server"] = int(recipe.plan.asleep_gib * 2**30)

    def train(groups):
        self.actor.prepare_for_training()
        held["activations"] = max(rank.peak for rank in ranks) - largest.states.total
        at("training")
        del held["activations"]
        self.actor.finish_training()
        return {}

    self.recipe.rollout.sleep, self.cfg.save_every, self.validation = True, 1, object()
    self.actor.prepare_for_training = lambda: move(onto_gpu=True)
    self.actor.finish_training = lambda: move(onto_gpu=False)
    self.checkpoints.load_latest = load
    self.checkpoints.save = lambda *_: at("save")
    self.save = MethodType(GRPOTrainer.save, self)
    self.source.push, self.source.sleep, self.train = push, sleep, train
    self.fit()
    assert self.logged == [3, 4]
    assert seen == planned

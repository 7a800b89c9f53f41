# SPDX-License-Identifier: Apache-2.0
"""The order of the tasks and the learning-rate schedule."""

from collections import Counter

import pytest
from omegaconf import OmegaConf

from reasongrm_nemo.data.records import JudgeTask
from reasongrm_nemo.grpo.order import TaskOrder, with_steps
from reasongrm_nemo.megatron.schedule import learning_rate_factor
from reasongrm_nemo.recipe.load import load_recipe, recipes_root


def make_tasks(count):
    messages = [{"role": "user", "content": "?"}]
    return [JudgeTask(f"t{i}", f"p{i}", "test", messages, "A", "chosen_first") for i in range(count)]


def test_an_epoch_holds_every_task_once_and_the_next_is_shuffled_differently():
    order = TaskOrder(make_tasks(12), per_step=4, seed=1, shuffle=True)
    passes = [[t.id for step in range(3 * p, 3 * p + 3) for t in order.take(4 * step)] for p in range(2)]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(t.id for t in order.tasks)
    assert passes[0] != passes[1]


@pytest.mark.parametrize(
    ("epochs", "tasks", "per_step", "steps"), [(1, 12, 4, 3), (1, 13, 4, 4), (3, 10, 4, 8), (2, 3, 8, 1)]
)
def test_epochs_give_the_fewest_steps_that_take_every_task(epochs, tasks, per_step, steps):
    words = [f"grpo.epochs={epochs}", "grpo.steps=null", f"grpo.prompts_per_step={per_step}"]
    cfg = with_steps(load_recipe(recipes_root() / "tiny" / "1_grpo_zero.yaml", words), tasks).grpo
    assert (cfg.steps, cfg.epochs) == (steps, None)
    order = TaskOrder(make_tasks(tasks), per_step, seed=1, shuffle=True)
    counts = Counter(task.id for step in range(steps) for task in order.take(per_step * step))
    assert len(counts) == tasks and min(counts.values()) >= epochs
    short = Counter(task.id for step in range(steps - 1) for task in order.take(per_step * step))
    assert min((short[f"t{i}"] for i in range(tasks)), default=0) < epochs, "no step too many"


def test_a_step_does_not_depend_on_those_before_it():
    tasks = make_tasks(10)
    again = TaskOrder(tasks, 4, 7, True).take(20)
    order = TaskOrder(tasks, 4, 7, True)
    assert [order.take(4 * step) for step in range(6)][5] == again


def test_few_tasks_repeat_within_one_step():
    order = TaskOrder(make_tasks(3), per_step=8, seed=1, shuffle=False)
    assert [t.id for t in order.take(0)] == ["t0", "t1", "t2", "t0", "t1", "t2", "t0", "t1"]


def test_learning_rate_warms_up_then_holds_or_falls():
    optim = OmegaConf.create({"lr": 2.0, "min_lr": 0.2, "warmup_steps": 2, "schedule": "constant"})
    assert [learning_rate_factor(s, 6, optim) for s in range(4)] == [0.5, 1.0, 1.0, 1.0]
    optim.schedule = "cosine"
    factors = [learning_rate_factor(s, 6, optim) for s in range(6)]
    assert factors[:3] == [0.5, 1.0, 1.0] and factors[-1] == pytest.approx(0.1)
    # a cosine from 1 to 0.1 over steps 2 to 5
    assert factors[3:5] == pytest.approx([0.1 + 0.9 * 0.75, 0.1 + 0.9 * 0.25])

# SPDX-License-Identifier: Apache-2.0
"""The gain from a lag or a straggler budget, in a step whose timeline can be worked out by hand."""

import numpy as np
import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.plan import times
from reasongrm_nemo.plan.rollout_study import study
from reasongrm_nemo.plan.serving import server
from reasongrm_nemo.recipe.load import load_recipe, recipes_root, resolve_path

QWQ = Architecture.from_folder(resolve_path("asset:configs/qwq_32b", "."))
SHORT, LONG = 1000, 20000


class OneStraggler:
    """The last of 32 groups of 8 answers in 20,000 tokens, all others in 1,000."""

    def draw(self, groups, samples, seed):
        lengths = np.full((groups, samples), SHORT, dtype=np.int64)
        lengths[-1] = LONG
        return lengths


def recipe(*words, stage="1_grpo_zero"):
    return load_recipe(recipes_root() / "qwq_32b" / f"{stage}.yaml", words)


@pytest.fixture(scope="module")
def studied():
    return study(recipe("rollout.straggler_timeout_s=100"), QWQ, OneStraggler())


@pytest.fixture(scope="module")
def line():
    """The simulated rollouts of the same step."""
    cfg = recipe()
    return times.step_rollouts(cfg, QWQ, server(cfg, QWQ), OneStraggler(), 0)


def choice(studied, beginning):
    return next(option for option in studied.choices if option.name.startswith(beginning))


def test_only_one_server_works_through_the_tail(studied, line):
    """Three of four servers are idle after a fifteenth of the time."""
    assert studied.steps == times.STEPS
    assert studied.done[1.0] == pytest.approx(line.seconds)
    assert studied.done[0.9] == pytest.approx(line.ended[0, 0]) and studied.done[0.5] <= studied.done[0.9]
    assert studied.done[0.9] < 0.07 * studied.done[1.0]
    assert studied.done[0.99] == studied.done[1.0]
    assert 0.69 < studied.idle < 0.75
    assert studied.tokens == pytest.approx((31 * SHORT + LONG) / 32) and studied.longest == LONG
    assert studied.tokens_per_second == pytest.approx(8 * (31 * SHORT + LONG) / line.seconds)
    assert 8 < studied.running < 256 / 8  # eight run to the end


def test_a_lag_hides_training_behind_rollouts(studied, line):
    plain, lag, more = (choice(studied, name) for name in ("one after", "lag 1", "lag 2"))
    steps = studied.steps
    assert studied.training < line.seconds
    assert plain.step == pytest.approx(line.seconds + studied.training)
    # only the last step's training is waited for
    assert lag.step == more.step == pytest.approx(line.seconds + studied.training / steps)
    assert {(option.lost, option.length) for option in (plain, lag, more)} == {(0.0, 1.0)}


def test_a_budget_drops_the_straggler(studied, line):
    given = choice(studied, "straggler budget 100 s")
    assert studied.choices.index(given) == 3  # the recipe's budget comes before the proposed ones
    assert line.ended[0, 0] < 100 < line.seconds
    assert given.lost == pytest.approx(1 / 32)
    assert given.length == pytest.approx(SHORT / ((31 * SHORT + LONG) / 32))
    assert given.step == pytest.approx(100 + studied.training * 31 / 32)


def test_budgets_are_proposed_as_fractions_of_the_rollout_time(studied, line):
    for share, option in zip((0.75, 0.5, 0.25), studied.choices[4:], strict=True):
        assert option.name == f"straggler budget {share * line.seconds:.0f} s"
        assert option.lost == pytest.approx(1 / 32)
        assert option.step == pytest.approx(share * line.seconds + studied.training * 31 / 32)


def test_at_least_one_group_is_always_waited_for():
    hasty = choice(
        study(recipe("rollout.straggler_timeout_s=1"), QWQ, OneStraggler()), "straggler budget 1 s"
    )
    assert hasty.step > 1 and hasty.lost < 1


def test_training_counts_the_scoring_that_the_recipe_needs(studied, monkeypatch):
    monkeypatch.setattr(times, "stated_lengths", lambda _: OneStraggler())
    scored = study(recipe("grpo.kl_coefficient=0.1"), QWQ, OneStraggler())
    cfg = recipe("grpo.kl_coefficient=0.1")
    more = times.step_training(cfg, QWQ) - times.step_training(recipe(), QWQ)
    assert more > 0 and scored.training - studied.training == pytest.approx(more)


def test_what_cannot_be_simulated_is_refused():
    with pytest.raises(UserError, match="2_generate is of stage generate"):
        study(recipe(stage="2_generate"), QWQ)
    with pytest.raises(UserError, match="no time is estimated"):
        study(recipe("plan.tflops=null"), QWQ)
    with pytest.raises(UserError, match="less than one full sequence"):
        study(recipe("rollout.gpu_memory_utilization=0.1"), QWQ)

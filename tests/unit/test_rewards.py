# SPDX-License-Identifier: Apache-2.0
"""The outcome reward, the group's condition, advantages, and mining (sections 3.2 and 3.4)."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongrm_nemo.data.records import HardTask, JudgeTask, ReasoningPath
from reasongrm_nemo.grpo import group_advantages, keep_group
from reasongrm_nemo.rewards import (
    HardCase,
    choose_hard,
    mine_hard_cases,
    outcome_reward,
    overlong_penalty,
    to_hard_tasks,
)


def test_the_reward_is_one_or_zero():
    assert outcome_reward("A", "A") == outcome_reward("B", "B") == 1.0
    assert outcome_reward("A", "B") == outcome_reward("B", "A") == outcome_reward(None, "A") == 0.0
    with pytest.raises(ValueError, match="label"):
        outcome_reward("A", "C")
    with pytest.raises(ValueError, match="verdict"):
        outcome_reward("tie", "A")


@given(st.lists(st.booleans(), max_size=12))
def test_a_group_is_kept_if_it_has_right_and_wrong_answers(correct):
    assert keep_group(correct) == (True in correct and False in correct)
    assert keep_group([float(entry) for entry in correct]) == keep_group(np.array(correct, dtype=bool))


def test_the_condition_depends_only_on_right_and_wrong():
    with pytest.raises(ValueError, match=r"got 0\.5"):
        keep_group([1.0, 0.5])


def test_advantages_by_hand():
    # (1, 0, 0, 0): mean 1/4, sample deviation 1/2 -> (3/2, -1/2, -1/2, -1/2)
    advantages = group_advantages([1, 0, 0, 0], ["g"] * 4, eps=0.0)
    assert advantages == pytest.approx([1.5, -0.5, -0.5, -0.5])
    assert group_advantages([1, 0, 0, 0], ["g"] * 4, std=False) == pytest.approx([0.75, -0.25, -0.25, -0.25])
    # eps is added to the standard deviation
    assert group_advantages([1, 0, 0, 0], ["g"] * 4, eps=0.25) == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3])


def test_groups_do_not_affect_each_other():
    rewards, groups = [1, 5, 0, 5, 3, 0.1, 0.1, 0.1], ["a", "b", "a", "b", "c", 4, 4, 4]
    advantages = group_advantages(rewards, groups, eps=0.0)
    half = 0.5**0.5
    assert advantages == pytest.approx([half, 0, -half, 0, 0, 0, 0, 0])
    assert (advantages[[1, 3, 4, 5, 6, 7]] == 0.0).all()  # exactly
    assert advantages.dtype == np.float64
    assert group_advantages([], []).shape == (0,)


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.integers(0, 4)), max_size=40), st.randoms())
def test_order_does_not_matter_and_advantages_of_a_group_sum_to_zero(items, rng):
    rewards, groups = [r for r, _ in items], [g for _, g in items]
    advantages = group_advantages(rewards, groups)
    order = list(range(len(items)))
    rng.shuffle(order)
    shuffled = group_advantages([rewards[i] for i in order], [groups[i] for i in order])
    assert shuffled == pytest.approx(advantages[order])
    for group in set(groups):
        of_group = [index for index, other in enumerate(groups) if other == group]
        assert advantages[of_group].sum() == pytest.approx(0.0, abs=1e-9)
        kept = keep_group([rewards[index] for index in of_group])
        assert bool((advantages[of_group] != 0).any()) == kept


def test_bad_rewards_are_refused():
    with pytest.raises(ValueError, match="2 group ids"):
        group_advantages([1.0], ["a", "b"])
    with pytest.raises(ValueError, match="not finite"):
        group_advantages([1.0, float("nan")], ["a", "a"])


def path(task, sample, verdict, label="A", text="x</think>", prob=0.5, finish="stop"):
    return ReasoningPath(
        task, sample, text, 1, 1, prob, prob, verdict, "ok", verdict == label, finish, "sft"
    )  # fmt: skip


PATHS = [
    path("easy", 0, "A"), path("easy", 1, "A"),
    path("mixed", 0, "B"), path("mixed", 1, "A", text="meh</think>", prob=0.2), path("mixed", 2, None),
    path("mixed", 3, "A", text="good</think>", prob=0.9),
    path("never", 0, "B"), path("never", 1, None),
    path("cut", 0, "A", text="long</think>", finish="length"), path("cut", 1, "B"),
]  # fmt: skip


def test_a_task_is_hard_if_not_always_answered_right():
    paths = list(PATHS)
    cases = mine_hard_cases(paths)
    assert [case.task_id for case in cases] == ["cut", "mixed", "never"]
    cut, mixed, never = cases
    assert mixed.answers == ("B", "A", None, "A")
    assert (mixed.accuracy, mixed.rationale) == (0.5, "good</think>")
    assert (never.answers, never.accuracy, never.rationale) == (("B", None), 0.0, None)
    assert (cut.accuracy, cut.rationale) == (0.5, None)  # a truncated text is no rationale
    random.Random(0).shuffle(paths)
    assert mine_hard_cases(iter(paths)) == cases
    assert mine_hard_cases([]) == []
    with pytest.raises(ValueError, match="Task easy has sample 0 twice"):
        mine_hard_cases([*PATHS, PATHS[0]])


def case(name, accuracy):
    return HardCase(name, ("A",), accuracy, None)


def test_hard_cases_are_narrowed_only_on_request():
    cases = [case(f"t{n}", n / 8) for n in range(8)]
    assert choose_hard(cases, {}, 0) == (cases, {})
    assert choose_hard(cases, {}, 0, drop_never_right=True) == (cases[1:], {"task never right": 1})
    kept, drops = choose_hard(cases, {}, 0, bands=[(0.0, 0.125), (0.5, 0.75)])
    assert [case.task_id for case in kept] == ["t0", "t1", "t4", "t5", "t6"]
    assert drops == {"task outside mine.bands": 3}
    kept, drops = choose_hard(cases, {}, 0, [(0.0, 0.25)], drop_never_right=True)
    assert [case.task_id for case in kept] == ["t1", "t2"]
    assert drops == {"task never right": 1, "task outside mine.bands": 5}


def test_the_cap_per_source_is_seeded_and_order_does_not_matter():
    cases = [case(f"{source}{n}", 0.5) for n in range(300) for source in "ab"] + [case("c0", 0.5)]
    sources = {case.task_id: case.task_id[0] for case in cases}
    kept, drops = choose_hard(cases, sources, 1, max_per_source=30)
    assert Counter(case.task_id[0] for case in kept) == {"a": 30, "b": 30, "c": 1}
    assert drops == {"task past mine.max_per_source": 540}
    assert kept == [case for case in cases if case in kept]  # in order
    shuffled = list(cases)
    random.Random(0).shuffle(shuffled)
    again = choose_hard(shuffled, sources, 1, max_per_source=30)[0]
    assert {case.task_id for case in again} == {case.task_id for case in kept}
    assert choose_hard(cases, sources, 2, max_per_source=30)[0] != kept
    # a uniform draw: the mean place of 30 of 300 is within five standard deviations (5 * 15.8) of 149.5
    assert abs(np.mean([int(c.task_id[1:]) for c in kept if c.task_id[0] == "a"]) - 149.5) < 79
    with pytest.raises(ValueError, match="max_per_source 0"):
        choose_hard(cases, sources, 1, max_per_source=0)


def test_cases_become_records():
    tasks = [
        JudgeTask(name, name, "s", [{"role": "user", "content": "q"}], "A", "chosen_first")
        for name in ("never", "easy", "mixed", "cut", "unasked")
    ]
    hard = to_hard_tasks(mine_hard_cases(PATHS), tasks, {"never": "reference", "mixed": "reference"})
    assert [task.id for task in hard] == ["never", "mixed", "cut"]
    assert [task.rationale for task in hard] == ["reference", "reference", None]
    assert hard[1].answers == ["B", "A", None, "A"]
    for task in hard:
        assert HardTask.from_dict(task.to_dict()) == task
    # mining mined tasks again replaces the earlier results
    again = to_hard_tasks(mine_hard_cases([path("mixed", 0, "B")]), hard)
    assert [(task.id, task.answers, task.accuracy, task.rationale) for task in again] == [
        ("mixed", ["B"], 0.0, None)
    ]
    with pytest.raises(ValueError, match="unknown, among them cut"):
        to_hard_tasks(mine_hard_cases(PATHS), tasks[:1])


def test_leave_one_out_is_each_reward_minus_the_mean_of_the_others():
    rewards = [1.0, 0.0, 0.0, 0.5]
    for std in (False, True):
        advantages = group_advantages(rewards, ["g"] * 4, std=std, eps=0.0, baseline="leave_one_out")
        scale = np.std(rewards, ddof=1) if std else 1.0
        expected = [(r - (sum(rewards) - r) / 3) / scale for r in rewards]
        assert advantages == pytest.approx(expected)
    with pytest.raises(ValueError, match="median"):
        group_advantages(rewards, ["g"] * 4, baseline="median")


@pytest.mark.parametrize(
    ("length", "penalty"), [(0, 0.0), (80, 0.0), (85, -0.25), (90, -0.5), (100, -1.0), (120, -1.0)]
)
def test_the_overlong_penalty_falls_linearly_over_the_buffer(length, penalty):
    """DAPO, eq. 13, with L_max 100 and L_cache 20."""
    assert overlong_penalty(length, 100, 20) == pytest.approx(penalty)
    assert overlong_penalty(length, 100, 0) == 0.0


def test_a_buffer_longer_than_the_limit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        overlong_penalty(1, 10, 11)

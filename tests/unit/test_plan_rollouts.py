# SPDX-License-Identifier: Apache-2.0
"""The simulated rollouts of a step: closed forms in simple cases, and properties that always hold."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.plan.rollouts.lengths import Lognormal, Sampled, fit, read_paths
from reasongrm_nemo.plan.rollouts.timeline import Rates, Servers, roll_out, steps_in_time

RATES = Rates(fixed=2e-3, weights=5e-3, sample=1e-4, token=1e-8)
PLENTY = 10**9


def lengths(*rows):
    return np.array(rows, dtype=np.int64)


def test_one_wave_of_equal_answers_is_the_closed_form():
    """64 samples of 1,000 tokens after prompts of 100: prefill, then 1,000 steps over growing contexts."""
    line = roll_out(lengths(*[[1000] * 8] * 8), [100] * 8, Servers(1, 64, PLENTY, 64), RATES)
    n, steps, prompt = 64, 1000, 100
    context = sum(n * (prompt + step) for step in range(steps))
    seconds = 8 * prompt * RATES.sample + steps * (2e-3 + max(5e-3, n * 1e-4)) + RATES.token * context
    assert line.seconds == pytest.approx(seconds, rel=1e-12)
    assert (line.ended == line.seconds).all() and line.preemptions == 0 and line.idle() == 0
    assert line.mean_running() == pytest.approx(64)


def test_with_one_slot_answers_come_one_after_another():
    rates = Rates(fixed=1.0, weights=0.0, sample=0.0, token=0.0)
    line = roll_out(lengths([3, 5], [2, 7]), [4, 4], Servers(1, 1, PLENTY, 2), rates)
    assert line.ended.tolist() == [[3.0, 8.0], [10.0, 17.0]]


def test_two_servers_take_half_and_wait_for_the_longest():
    rates = Rates(fixed=1.0, weights=0.0, sample=0.0, token=0.0)
    line = roll_out(lengths([10], [100], [10], [10]), [1] * 4, Servers(2, 8, PLENTY, 8), rates)
    assert line.server.tolist() == [0, 1, 0, 1] and line.seconds == 100
    assert line.idle() == pytest.approx(0.45)  # the first server finishes at 10 of 100
    assert line.share_done(0.75) == 10


def test_a_request_is_seen_at_the_next_step_and_a_limit_holds():
    rates = Rates(fixed=1.0, weights=0.0, sample=0.0, token=0.0)
    line = roll_out(lengths([2], [9], [3]), [1] * 3, Servers(2, 8, PLENTY, 1), rates)
    assert line.ended[:, 0].tolist() == [2.0, 9.0, 5.0] and line.server.tolist() == [0, 1, 0]


def test_a_full_cache_preempts_the_newest_request():
    """Two answers of 6 tokens after a prompt of 2 need 14 cache slots; there are 10."""
    rates = Rates(fixed=1.0, weights=0.0, sample=0.0, token=0.0)
    line = roll_out(lengths([6, 6]), [2], Servers(1, 8, 10, 8), rates)
    assert line.preemptions == 1
    assert line.ended.tolist() == [[6.0, 8.0]]  # 4 together, 2 alone, the last 2 alone


def test_a_prompt_is_held_until_the_last_of_its_answers_ends():
    """Prompts of 4 and a cache of 10: the next prompt waits until the longer answer ends, and no longer."""
    rates = Rates(fixed=1.0, weights=0.0, sample=0.0, token=0.0)
    line = roll_out(lengths([2, 4], [1, 1], [1, 1]), [4] * 3, Servers(1, 8, 10, 8), rates)
    assert line.ended.tolist() == [[2, 4], [5, 5], [6, 6]] and line.preemptions == 0


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(1, 200), min_size=3, max_size=3), min_size=1, max_size=9),
    servers=st.integers(1, 3),
    slots=st.integers(1, 7),
    cache=st.integers(260, 900),
)
def test_every_request_ends_and_none_sooner_than_alone(rows, servers, slots, cache):
    drawn = lengths(*rows)
    line = roll_out(drawn, [50] * len(rows), Servers(servers, slots, cache, 2), RATES)
    assert np.isfinite(line.ended).all()
    alone = np.vectorize(lambda length: RATES.steps(int(length), 1, 50))(drawn)
    assert (line.ended - line.began >= alone - 1e-9).all()
    assert all(count <= slots for events in line.running for _, count in events)
    work = float((drawn * (RATES.fixed + RATES.weights)).sum()) / (servers * slots)
    assert line.seconds >= work - 1e-9
    assert 0 <= line.idle() < 1 and line.mean_running() <= servers * slots * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 500), samples=st.integers(1, 64), context=st.integers(0, 10**6))
def test_steps_within_is_the_inverse_of_steps(count, samples, context):
    seconds = RATES.steps(count, samples, context)
    assert RATES.steps_within(seconds, samples, context) == count
    assert RATES.steps_within(seconds * (1 + 1e-6), samples, context) == count + 1


def test_a_lag_hides_the_shorter_of_rollouts_and_training():
    assert steps_in_time([10, 10, 10], [4, 4, 4], 0) == [14, 28, 42]
    assert steps_in_time([10, 10, 10], [4, 4, 4], 1) == [14, 24, 34]
    assert steps_in_time([4, 4, 4], [10, 10, 10], 1) == [14, 24, 34]
    # one slow step is hidden by a lag of two, and only partly by a lag of one
    assert steps_in_time([1, 9, 1], [5, 5, 5], 0)[-1] == 26
    assert steps_in_time([1, 1, 1, 9], [5] * 4, 1)[-1] == 25
    assert steps_in_time([1, 1, 1, 9], [5] * 4, 2)[-1] == 21


def test_lengths_are_drawn_as_stated_and_by_the_seed():
    stated = Lognormal(median=2000, sigma=0.8, alike=0.6, limit=57344)
    drawn = stated.draw(4000, 8, seed=1)
    logs = np.log(drawn)
    assert math.exp(np.median(logs)) == pytest.approx(2000, rel=0.05)
    assert logs.std() == pytest.approx(0.8, rel=0.03)
    # variance of a task's mean: the shared part, and an eighth of the rest
    assert logs.mean(axis=1).var() == pytest.approx(0.64 * (0.6 + 0.4 / 8), rel=0.06)
    assert (stated.draw(4, 8, seed=1) == stated.draw(4, 8, seed=1)).all()
    assert not (stated.draw(4, 8, seed=1) == stated.draw(4, 8, seed=2)).all()
    assert Lognormal(2000, 3.0, 0.0, 57344).draw(100, 8, 1).max() == 57344


def test_a_fit_recovers_the_distribution_of_a_truncated_sample():
    """A fifth of the answers reach the limit of 4,000; the plain mean would be a quarter too low."""
    limit = 4000
    drawn = Lognormal(2000, 0.8, 0.5, 10**9).draw(3000, 4, seed=3)
    cut = drawn >= limit
    fitted = fit(np.minimum(drawn, limit).tolist(), cut.tolist(), 57344)
    assert fitted.cut == pytest.approx(cut.mean()) and 0.15 < fitted.cut < 0.25
    assert fitted.lognormal.median == pytest.approx(2000, rel=0.03)
    assert fitted.lognormal.sigma == pytest.approx(0.8, rel=0.03)
    assert fitted.distance < 0.02 and fitted.lognormal.limit == 57344
    whole = fit(drawn.tolist(), np.zeros_like(drawn, dtype=bool).tolist(), 57344)
    assert whole.lognormal.alike == pytest.approx(0.5, abs=0.03)
    uniform = np.arange(1, 4001).reshape(1000, 4)
    assert fit(uniform.tolist(), np.zeros_like(uniform, dtype=bool).tolist(), 57344).distance > 0.05


def test_a_sample_is_read_and_drawn_again(tmp_path):
    file = tmp_path / "paths.jsonl"
    row = {"task_id": "a", "reasoning_tokens": 7, "answer_tokens": 2, "finish_reason": "stop"}
    more = row | {"task_id": "b", "reasoning_tokens": 30, "answer_tokens": 0, "finish_reason": "length"}
    file.write_text("\n".join(map(json.dumps, [row, more])) + "\n")
    tasks, cut = read_paths(file)
    assert tasks == [[10], [30]] and cut == [[False], [True]]  # the end-of-turn token is one more
    drawn = Sampled(tasks, 20).draw(50, 3, seed=1)
    assert set(drawn.ravel().tolist()) == {10, 20} and all(len(set(group)) == 1 for group in drawn.tolist())
    file.write_text('{"task_id": 3}\n')
    with pytest.raises(UserError, match=r"paths.jsonl:1: task_id must be text, not 3"):
        read_paths(file)
    with pytest.raises(UserError, match=r"none\.jsonl: no such file"):
        read_paths(tmp_path / "none.jsonl")

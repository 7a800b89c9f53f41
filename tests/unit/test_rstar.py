# SPDX-License-Identifier: Apache-2.0
"""R* (section 3.3): the score, the choice, the report."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rstar_paths import many, path

from reasongrm_nemo.data.records import JudgeTask, SftExample
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.rstar import (
    Floors,
    ineligible,
    path_sums,
    score_path,
    score_sums,
    select_paths,
    selection_report,
    to_sft_example,
)

PROBS = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40)


def test_the_equation_by_hand():
    # mean(.9, .5, .1) = .5; mean(.8, .4) = .6; product .3
    score = score_path([0.9, 0.5, 0.1], [0.8, 0.4])
    assert score == pytest.approx((0.3, 0.5, 0.6), abs=1e-15)
    assert (score.score, score.self_consistency, score.validity) == tuple(score)


def test_the_mean_is_of_probabilities_not_of_logs():
    # Path 1 has one very rare token.  By arithmetic means it wins (.75 against .6), by the geometric mean,
    # exp of the mean log, it loses (.1 against .6).
    rare, steady = [1.0, 1.0, 1.0, 1e-4], [0.6] * 4
    assert score_path(rare, [1.0]).score == pytest.approx(0.750025)
    assert score_path(rare, [1.0]).score > score_path(steady, [1.0]).score
    assert math.exp(np.log(rare).mean()) < math.exp(np.log(steady).mean())
    # R* is the product of two means, not the mean over all tokens
    assert score_path([1.0] * 9, [0.1]).score == pytest.approx(0.1)


@given(PROBS, PROBS)
def test_scores_stay_between_0_and_1_and_ignore_token_order(reasoning, answer):
    score = score_path(reasoning, answer)
    assert 0.0 <= score.score <= min(score.self_consistency, score.validity) <= 1.0
    assert score_path(reasoning[::-1], sorted(answer)) == score
    assert score_path(np.array(reasoning), answer) == score


@given(PROBS, PROBS)
def test_sums_give_the_same_score(reasoning, answer):
    assert score_sums(path(reasoning=reasoning, answer=answer)) == pytest.approx(
        score_path(reasoning, answer)
    )


@given(st.lists(st.floats(-30.0, 0.0), min_size=2, max_size=30), st.data())
def test_sums_from_log_probabilities(log_probs, data):
    start = data.draw(st.integers(1, len(log_probs) - 1))
    sums = path_sums(log_probs, start)
    probs = [math.exp(value) for value in log_probs]
    assert (sums.reasoning_tokens, sums.answer_tokens) == (start, len(log_probs) - start)
    assert sums.reasoning_prob_sum == pytest.approx(sum(probs[:start]))
    assert sums.answer_prob_sum == pytest.approx(sum(probs[start:]))


def test_long_paths_lose_no_precision():
    probs = np.full(57_344, 0.1, dtype=np.float32)
    assert score_path(probs, [1.0]).self_consistency == pytest.approx(float(np.float32(0.1)), abs=1e-15)


@pytest.mark.parametrize(
    ("reasoning", "answer", "says"),
    [
        ([], [0.5], "reasoning has no tokens"),
        ([0.5], [], "answer has no tokens"),
        ([1.5], [0.5], "token 0: 1.5 is not a probability"),
        ([0.5, -0.1], [0.5], "token 1"),
        ([0.5], [float("nan")], "answer token 0"),
        ([-0.7], [0.5], "not a probability"),  # a log-probability
        ([[0.5]], [0.5], "flat list"),
    ],
)
def test_invalid_probabilities_are_refused(reasoning, answer, says):
    with pytest.raises(ValueError, match=says):
        score_path(reasoning, answer)


def test_impossible_sums_are_refused():
    with pytest.raises(ValueError, match="Path t sample 0 has no answer tokens"):
        score_sums(path(answer=()))
    with pytest.raises(ValueError, match="cannot be a sum of 2 probabilities"):
        score_sums(replace(path(), reasoning_prob_sum=2.1))
    with pytest.raises(ValueError, match="outside"):
        path_sums([-1.0], 2)
    with pytest.raises(ValueError, match="not a probability"):
        path_sums([0.5, -1.0], 1)
    assert path_sums([1e-9, -1.0], 1).reasoning_prob_sum == 1.0  # rounding of a log-softmax
    assert path_sums([], 0) == (0, 0, 0.0, 0.0)


def test_only_right_complete_paths_are_chosen():
    paths = [
        path(sample=0, reasoning=[1.0], answer=[1.0], correct=False),
        path(sample=1, reasoning=[1.0], answer=[1.0], finish="length"),
        path(sample=2, reasoning=[], answer=[1.0]),
        path(sample=3, reasoning=[1.0], answer=[]),
        replace(path(sample=4), verdict=None, correct=False),
        path(sample=5, reasoning=[0.1], answer=[0.1]),
        path("never", 0, correct=False),
    ]
    reasons = ["wrong", "cut_off", "no_reasoning", "no_answer", "no_verdict", None, "wrong"]
    assert [ineligible(p) for p in paths] == reasons
    for strategy in ("r_star", "random", "shortest", "all"):
        assert select_paths(paths, strategy) == [paths[5]]


def test_ties_go_to_validity_then_length_then_sample():
    worse_validity = path(sample=0, reasoning=[0.8], answer=[0.25])
    longer = path(sample=1, reasoning=[0.25, 0.25], answer=[0.8])
    later = path(sample=3, reasoning=[0.25], answer=[0.8])
    best = path(sample=2, reasoning=[0.25], answer=[0.8])
    assert len({score_sums(p).score for p in (worse_validity, longer, later, best)}) == 1
    paths = [worse_validity, longer, later, best]
    for _ in range(len(paths)):
        paths = [*paths[1:], paths[0]]
        assert select_paths(paths) == [best]
    assert select_paths([worse_validity, longer, later]) == [later]
    assert select_paths([worse_validity, longer]) == [longer]


def test_r_star_is_the_argmax_among_right_paths():
    paths = many()
    chosen = {p.task_id: p for p in select_paths(paths)}
    for task in {p.task_id for p in paths}:
        right = [p for p in paths if p.task_id == task and p.correct]
        if right:
            assert score_sums(chosen[task]).score == max(score_sums(p).score for p in right)
        else:
            assert task not in chosen


@pytest.mark.parametrize("strategy", ["r_star", "random", "shortest", "all"])
def test_neither_order_nor_sharding_changes_the_choice(strategy):
    paths = many()
    whole = select_paths(iter(paths), strategy, seed=5)
    assert [(p.task_id, p.sample) for p in whole] == sorted((p.task_id, p.sample) for p in whole)
    random.Random(1).shuffle(paths)
    assert select_paths(paths, strategy, seed=5) == whole
    shards = [[p for p in paths if int(p.task_id[4:]) % 3 == rank] for rank in range(3)]
    parts = [p for shard in shards for p in select_paths(shard, strategy, seed=5)]
    assert sorted(parts, key=lambda p: (p.task_id, p.sample)) == whole


def test_random_is_uniform_and_seeded():
    paths = [path(f"t{task}", sample) for task in range(2000) for sample in range(4)]
    counts = np.bincount([p.sample for p in select_paths(paths, "random", seed=1)], minlength=4)
    assert counts.sum() == 2000
    assert abs(counts - 500).max() < 100  # five standard deviations
    assert select_paths(paths, "random", seed=1) != select_paths(paths, "random", seed=2)


def test_all_and_shortest():
    paths = many()
    assert len(select_paths(paths, "all")) == sum(p.correct for p in paths)
    for chosen in select_paths(paths, "shortest"):
        lengths = [
            p.reasoning_tokens + p.answer_tokens for p in paths if p.task_id == chosen.task_id and p.correct
        ]
        assert chosen.reasoning_tokens + chosen.answer_tokens == min(lengths)


def ranking(strategy, seed):
    """The ranking as the documentation states it, path by path."""

    def key(p):
        score = score_sums(p)
        length = p.reasoning_tokens + p.answer_tokens
        return {
            "r_star": (-score.score, -score.validity, length, p.sample),
            "random": (derive_seed(seed, "random_path", p.task_id, p.sample),),
            "shortest": (length, -score.validity, length, p.sample),
        }[strategy]

    return key


@pytest.mark.parametrize("strategy", ["r_star", "random", "shortest"])
def test_top_k_are_the_best_by_the_strategy(strategy):
    paths = many()
    key = ranking(strategy, 5)
    expected = []
    for task in sorted({p.task_id for p in paths}):
        right = sorted((p for p in paths if p.task_id == task and p.correct), key=key)
        expected += sorted(right[:3], key=lambda p: p.sample)
    chosen = select_paths(paths, strategy, seed=5, top_k=3)
    assert chosen == expected
    assert len(chosen) > 2 * len({p.task_id for p in paths}) * 0.8
    assert select_paths(reversed(paths), strategy, seed=5, top_k=3) == chosen
    assert select_paths(paths, strategy, seed=5, top_k=99) == select_paths(paths, "all")


def test_ties_within_top_k():
    same = [path(sample=n) for n in (3, 0, 2, 1)]
    assert [p.sample for p in select_paths(same, top_k=2)] == [0, 1]


def test_floors_exclude_paths_from_every_strategy():
    low, high = path(sample=0, reasoning=[0.5], answer=[0.6]), path(sample=1, reasoning=[0.4], answer=[0.9])
    for floors, reasons in (
        (Floors(), [None, None]),
        (Floors(r_star=0.35), ["low_r_star", None]),
        (Floors(self_consistency=0.5), [None, "low_self_consistency"]),
        (Floors(validity=0.7), ["low_validity", None]),
        (Floors(r_star=0.36), ["low_r_star", None]),  # a path at the floor passes
    ):
        assert [ineligible(p, floors) for p in (low, high)] == reasons
        for strategy in ("r_star", "random", "shortest", "all"):
            kept = [p for p, reason in zip((low, high), reasons, strict=True) if reason is None]
            assert set(select_paths([low, high], strategy, floors=floors)) <= set(kept)
    report = selection_report([low, high], floors=Floors(r_star=0.35))
    assert report["ineligible_paths"] == {"low_r_star": 1}


def test_invalid_arguments_are_named():
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        select_paths([], top_k=0)
    with pytest.raises(ValueError, match=r"Path t sample 0: 1\.5 cannot be a sum of 1 prob"):
        select_paths([replace(path(), answer_prob_sum=1.5)])
    with pytest.raises(ValueError, match="Unknown selection strategy 'best'; known are r_star"):
        select_paths([], "best")
    with pytest.raises(ValueError, match="Task t has sample 0 twice"):
        select_paths([path(), path(correct=False)])
    assert select_paths([]) == []


def test_the_training_example():
    task = JudgeTask("t", "p", "s", [{"role": "user", "content": "q"}], "A", "chosen_first")
    example = to_sft_example(path(reasoning=[0.5, 0.7], answer=[0.5]), task, response_prefix="<think>\n")
    assert example.messages == [*task.messages, {"role": "assistant", "content": "<think>\nx</think>"}]
    assert (example.r_star, example.self_consistency, example.validity) == pytest.approx((0.3, 0.6, 0.5))
    assert example.strategy == "r_star"
    assert SftExample.from_dict(example.to_dict()) == example
    assert len(task.messages) == 1
    with pytest.raises(ValueError, match="belongs to the task u"):
        to_sft_example(path("u"), task)

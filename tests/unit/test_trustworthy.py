# SPDX-License-Identifier: Apache-2.0
"""Bootstrap intervals, comparisons of two runs, votes, and other figures of a log."""

import math
import random

import numpy as np
import pytest
from judged_logs import drawn_log, judged, pairs_of
from msgspec.structs import replace
from scipy import stats

from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation import resample, rm_bench
from reasongrm_nemo.evaluation.benchmarks import score_rows
from reasongrm_nemo.evaluation.compare import compare_runs, mcnemar
from reasongrm_nemo.evaluation.policies import get_policy
from reasongrm_nemo.evaluation.registry import MODULES
from reasongrm_nemo.evaluation.resample import Elements, bootstrap, interval


@pytest.mark.parametrize("benchmark", MODULES)
def test_elements_give_the_scores(benchmark):
    log = drawn_log(benchmark, 0.7, 1, items=3)
    run = score_rows(benchmark, "x", log, draws=0)
    elements = MODULES[benchmark].elements(run.subsets, run.rules)
    _, sums, counts, weights = elements.arrays()
    means = sums.sum(axis=0) / counts.sum(axis=0)
    scores = dict(zip(elements.names, means @ weights, strict=True))
    assert scores == pytest.approx(run.result.values(), abs=1e-12)


def test_verdicts_read_as_released_are_resampled_as_scored():
    run = score_rows("rm_bench", "x", drawn_log("rm_bench", 0.6, 2, items=3), "rm_r1", draws=0)
    elements = rm_bench.elements(run.subsets, run.rules)
    _, sums, counts, weights = elements.arrays()
    scores = dict(zip(elements.names, (sums.sum(0) / counts.sum(0)) @ weights, strict=True))
    assert scores == pytest.approx(run.result.values(), abs=1e-12)
    right = rm_bench.elements(run.subsets, get_policy("paper"))
    assert not np.allclose(right.arrays()[1].sum(0), sums.sum(0))


@pytest.mark.parametrize("chunk", [resample._CHUNK, 1000])
def test_the_interval_of_a_plain_mean_is_the_normal_one(chunk, monkeypatch):
    """Also when the draws are made two at a time."""
    monkeypatch.setattr(resample, "_CHUNK", chunk)
    # 400 independent items, 30 % right: standard error sqrt(0.3 * 0.7 / 400) = 0.0229
    elements = Elements({"score": {"only": 1.0}})
    for number in range(400):
        elements.add("one", number, "only", [float(number % 10 < 3)])
    scores = bootstrap(elements, draws=4000, seed=1)[:, 0]
    assert scores.std() == pytest.approx(math.sqrt(0.3 * 0.7 / 400), rel=0.05)  # 1.1 % by chance
    low, high = interval(scores)
    assert (low, high) == pytest.approx((0.3 - 1.96 * 0.0229, 0.3 + 1.96 * 0.0229), abs=0.005)


def test_cells_of_an_item_are_drawn_together():
    """Nine cells that always agree count as one: the interval is three times as wide."""
    widths = []
    for same in (1.0, 0.0):
        run = score_rows("rm_bench", "x", drawn_log("rm_bench", 0.5, 3, items=60, same=same))
        score = run.result.scores["avg"]
        assert score.method == "bootstrap"
        widths.append(score.high - score.low)
    assert widths[0] / widths[1] == pytest.approx(3, rel=0.25)


def test_items_of_one_prompt_are_drawn_together():
    pairs = [pair for pair in pairs_of("rmb", 40) if pair[0] == "Pairwise_set/Harmlessness/S1"]
    widths = []
    for named in (True, False):
        log = [
            judged(
                "rmb", pair, int(pair[1]) // 4 % 2 == 0, prompt_id=f"p{int(pair[1]) // 4}" if named else None
            )
            for pair in pairs
        ]
        log += [
            judged("rmb", p, True)
            for p in pairs_of("rmb", 1)
            if p[0].startswith("Pairwise_set/Harm") and p[0] != "Pairwise_set/Harmlessness/S1"
        ]
        score = score_rows("rmb", "x", log, partial=True).result.scores["Pairwise Harmlessness"]
        widths.append(score.high - score.low)
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.3)  # ten prompts of four items, not forty of one


@pytest.mark.parametrize("benchmark", MODULES)
def test_a_random_judge_is_inside_its_interval_and_one_seed_is_one_interval(benchmark):
    """Of 40 random judges some 2 intervals miss the truth; 8 or more do so with a chance of 1 in 1,500."""
    truth = {"rewardbench": ("Score", 0.5), "rm_bench": ("avg", 0.5), "rmb": ("Overall", (0.5 + 0.25) / 2)}
    name, value = truth[benchmark]
    outside = 0
    for seed in range(40):
        log = drawn_log(benchmark, 0.5, seed, items=12 if benchmark != "rmb" else 6)
        score = score_rows(benchmark, "x", log, draws=300).result.scores[name]
        assert score.method == "bootstrap"
        outside += not score.low <= value <= score.high
    assert outside < 8
    random.Random(1).shuffle(log)
    again = score_rows(benchmark, "x", log, draws=300).result.scores[name]
    assert (again.low, again.high) == pytest.approx((score.low, score.high), abs=1e-12)


def test_where_nothing_varies_the_combined_interval_is_kept():
    log = [judged("rm_bench", pair, True) for pair in pairs_of("rm_bench", 2)]
    score = score_rows("rm_bench", "x", log).result.scores["avg"]
    assert score.method == "combined" and score.low < score.value == score.high == 1.0


@pytest.mark.parametrize(("one", "two"), [(0, 0), (5, 5), (1, 9), (40, 20), (300, 350), (0, 12), (2000, 1)])
def test_mcnemar_is_scipy_s_binomial_test(one, two):
    result = mcnemar(one, two)
    if one + two:
        expected = stats.binomtest(one, one + two, 0.5)
        assert result.exact == pytest.approx(expected.pvalue, rel=1e-9)
        mid = min(1.0, expected.pvalue - stats.binom.pmf(one, one + two, 0.5) * (1 if one != two else 0))
        assert result.mid_p == pytest.approx(mid, rel=1e-9)
    else:
        assert result.exact == result.mid_p == 1.0
    assert (result.only_first, result.only_second) == (one, two)
    assert mcnemar(two, one).exact == result.exact


@pytest.mark.parametrize("benchmark", MODULES)
def test_a_run_against_itself_differs_in_nothing(benchmark):
    run = score_rows(benchmark, "x", drawn_log(benchmark, 0.6, 1, items=3), draws=0)
    diff = compare_runs(run, run, draws=50)
    assert diff.left_out == 0 and diff.both + diff.neither == diff.pairs == len(pairs_of(benchmark, 3))
    assert (diff.mcnemar.only_first, diff.mcnemar.only_second, diff.mcnemar.exact) == (0, 0, 1.0)
    assert {row["difference"] for row in diff.differences.values()} == {0.0}


def test_paired_intervals_are_narrower_where_judges_agree():
    base = drawn_log("rewardbench", 0.6, 1, items=40)
    rng = random.Random(2)
    # the second judge equals the first, except for a tenth that turns from wrong to right
    better = [
        judged("rewardbench", (v.subset, v.item_id, v.cell), v.correct or rng.random() < 0.25) for v in base
    ]
    other = drawn_log("rewardbench", 0.7, 9, items=40)
    runs = {
        name: score_rows("rewardbench", name, log)
        for name, log in {"base": base, "better": better, "other": other}.items()
    }
    paired = compare_runs(runs["better"], runs["base"]).differences["Score"]
    apart = compare_runs(runs["other"], runs["base"]).differences["Score"]
    assert paired["difference"] == pytest.approx(
        runs["better"].result.values()["Score"] - runs["base"].result.values()["Score"], abs=1e-12
    )
    assert 0 < paired["low"] < paired["difference"] < paired["high"]
    assert paired["high"] - paired["low"] < 0.6 * (apart["high"] - apart["low"])
    test = compare_runs(runs["better"], runs["base"]).mcnemar
    assert test.only_second == 0 and test.exact < 1e-10


def test_only_items_that_both_judged_are_compared():
    log = drawn_log("rm_bench", 0.6, 1, items=4)
    some = [v for v in log if v.item_id != "0"]
    whole, part = score_rows("rm_bench", "whole", log), score_rows("rm_bench", "part", some)
    comparison = compare_runs(whole, part)
    assert (comparison.pairs, comparison.left_out) == (5 * 3 * 9, 5 * 9)
    assert {row["difference"] for row in comparison.differences.values()} == {0.0}
    with pytest.raises(UserError, match="whole and none have no item in common"):
        none = score_rows("rm_bench", "none", [replace(v, item_id="x") for v in log])
        compare_runs(whole, none)
    with pytest.raises(UserError, match="whole is on rm_bench, x on rmb"):
        compare_runs(whole, score_rows("rmb", "x", drawn_log("rmb", 0.5, 1, items=1)))


def test_a_scalar_model_s_log_compares_with_a_judge_s():
    judge = drawn_log("rewardbench", 0.6, 1, items=3)
    judge = [replace(v, prompt_id=f"p{v.item_id}") for v in judge]
    scalar = [
        Verdict.from_dict(
            {"benchmark": "rewardbench", "subset": v.subset, "item_id": v.item_id, "cell": None}
            | {"chosen_score": 1.0 + v.correct, "rejected_score": 1.5}
        )
        for v in judge
    ]
    one, two = score_rows("rewardbench", "judge", judge), score_rows("rewardbench", "scalar", scalar)
    assert (one.scalar, two.scalar) == (False, True)
    comparison = compare_runs(two, one)
    assert comparison.mcnemar.exact == 1.0 and comparison.differences["Score"]["difference"] == 0.0

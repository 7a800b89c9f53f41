# SPDX-License-Identifier: Apache-2.0
"""Intervals by the bootstrap, two runs compared, votes, and what a log says beside its scores."""

import dataclasses
import math
import random

import numpy as np
import pytest
from scipy import stats

from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation import resample, rewardbench, rm_bench, rmb
from reasongrm_nemo.evaluation.benchmarks import score_rows
from reasongrm_nemo.evaluation.compare import compare_runs, mcnemar
from reasongrm_nemo.evaluation.policies import get_policy
from reasongrm_nemo.evaluation.registry import MODULES
from reasongrm_nemo.evaluation.resample import Elements, bootstrap, interval
from reasongrm_nemo.evaluation.tasks import TOO_LONG

ORDERS = ("chosen_first", "rejected_first")


def pairs_of(benchmark, items):
    if benchmark == "rewardbench":
        return [(name, f"{i}", None) for name in rewardbench.ITEMS for i in range(items)]
    if benchmark == "rm_bench":
        return [(n, f"{i}", c) for n in rm_bench.ITEMS for i in range(items) for c in sorted(rm_bench.CELLS)]
    cells = [(name, ("0", "1") if rmb.is_best_of_n(name) else (None,)) for name in rmb.counts()]
    return [(name, f"{i}", cell) for name, own in cells for i in range(items) for cell in own]


def judged(benchmark, pair, right, order="chosen_first", **more):
    """A judgement; `right` is True, False or None for no verdict."""
    side = {True: "A", False: "B", None: None}[right]
    if order == "rejected_first" and side:
        side = "AB"["BA".index(side)]
    status = "ok" if side else "no_verdict"
    return Verdict(benchmark, *pair, order, side, bool(right), False, status, 1, "", **more)


def drawn_log(benchmark, share, seed, items=20, same=0.0):
    """Judgements right with a probability; those of an item are alike with the probability `same`."""
    rng = random.Random(seed)
    coins = {}
    log = []
    for subset, item, cell in pairs_of(benchmark, items):
        coin = coins.setdefault((subset, item), rng.random() < share)
        right = coin if rng.random() < same else rng.random() < share
        log.append(judged(benchmark, (subset, item, cell), right))
    return log


# -- the bootstrap -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("benchmark", MODULES)
def test_elements_give_the_scores(benchmark):
    log = drawn_log(benchmark, 0.7, 1, items=3)
    run = score_rows(benchmark, "x", log, draws=0)
    elements = MODULES[benchmark].elements(run.subsets, run.rules)
    _, sums, counts, weights = elements.arrays()
    means = sums.sum(axis=0) / counts.sum(axis=0)
    found = dict(zip(elements.names, means @ weights, strict=True))
    assert found == pytest.approx(run.result.values(), abs=1e-12)


def test_released_reads_are_resampled_as_they_are_scored():
    run = score_rows("rm_bench", "x", drawn_log("rm_bench", 0.6, 2, items=3), "rm_r1", draws=0)
    elements = rm_bench.elements(run.subsets, run.rules)
    _, sums, counts, weights = elements.arrays()
    found = dict(zip(elements.names, (sums.sum(0) / counts.sum(0)) @ weights, strict=True))
    assert found == pytest.approx(run.result.values(), abs=1e-12)
    right = rm_bench.elements(run.subsets, get_policy("paper"))
    assert not np.allclose(right.arrays()[1].sum(0), sums.sum(0))


@pytest.mark.parametrize("chunk", [resample._CHUNK, 1000])
def test_the_interval_of_a_plain_mean_is_the_normal_one(chunk, monkeypatch):
    """Also where the draws are made two at a time."""
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
    """Nine cells that are always alike are worth one: the interval is three times as wide."""
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
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.3)  # ten prompts of four, against forty


@pytest.mark.parametrize("benchmark", MODULES)
def test_a_random_judge_is_inside_its_interval_and_one_seed_is_one_interval(benchmark):
    """Of 40 random judges the truth is outside some 2 intervals; 8 or more have a chance of 1 in 1,500."""
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


def test_where_nothing_varies_the_interval_stays_the_other_one():
    log = [judged("rm_bench", pair, True) for pair in pairs_of("rm_bench", 2)]
    score = score_rows("rm_bench", "x", log).result.scores["avg"]
    assert score.method == "combined" and score.low < score.value == score.high == 1.0


# -- two runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "two"), [(0, 0), (5, 5), (1, 9), (40, 20), (300, 350), (0, 12), (2000, 1)])
def test_mcnemar_is_scipy_s_binomial_test(one, two):
    found = mcnemar(one, two)
    if one + two:
        expected = stats.binomtest(one, one + two, 0.5)
        assert found.exact == pytest.approx(expected.pvalue, rel=1e-9)
        mid = min(1.0, expected.pvalue - stats.binom.pmf(one, one + two, 0.5) * (1 if one != two else 0))
        assert found.mid_p == pytest.approx(mid, rel=1e-9)
    else:
        assert found.exact == found.mid_p == 1.0
    assert (found.only_first, found.only_second) == (one, two)
    assert mcnemar(two, one).exact == found.exact


@pytest.mark.parametrize("benchmark", MODULES)
def test_a_run_against_itself_differs_in_nothing(benchmark):
    run = score_rows(benchmark, "x", drawn_log(benchmark, 0.6, 1, items=3), draws=0)
    found = compare_runs(run, run, draws=50)
    assert found.left_out == 0 and found.both + found.neither == found.pairs == len(pairs_of(benchmark, 3))
    assert (found.mcnemar.only_first, found.mcnemar.only_second, found.mcnemar.exact) == (0, 0, 1.0)
    assert {each["difference"] for each in found.differences.values()} == {0.0}


def test_paired_intervals_are_narrower_where_judges_agree():
    base = drawn_log("rewardbench", 0.6, 1, items=40)
    rng = random.Random(2)
    # the second judge is the first, but for a tenth that turns from wrong to right
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
    found = compare_runs(whole, part)
    assert (found.pairs, found.left_out) == (5 * 3 * 9, 5 * 9)
    assert {each["difference"] for each in found.differences.values()} == {0.0}
    with pytest.raises(UserError, match="whole and none have no item in common"):
        none = score_rows("rm_bench", "none", [dataclasses.replace(v, item_id="x") for v in log])
        compare_runs(whole, none)
    with pytest.raises(UserError, match="whole is of rm_bench, x of rmb"):
        compare_runs(whole, score_rows("rmb", "x", drawn_log("rmb", 0.5, 1, items=1)))


def test_a_scalar_model_s_log_compares_with_a_judge_s():
    judge = drawn_log("rewardbench", 0.6, 1, items=3)
    judge = [dataclasses.replace(v, prompt_id=f"p{v.item_id}") for v in judge]
    scalar = [
        Verdict.from_dict(
            {"benchmark": "rewardbench", "subset": v.subset, "item_id": v.item_id, "cell": None}
            | {"chosen_score": 1.0 + v.correct, "rejected_score": 1.5}
        )
        for v in judge
    ]
    one, two = score_rows("rewardbench", "judge", judge), score_rows("rewardbench", "scalar", scalar)
    assert (one.scalar, two.scalar) == (False, True)
    found = compare_runs(two, one)
    assert found.mcnemar.exact == 1.0 and found.differences["Score"]["difference"] == 0.0


# -- votes -------------------------------------------------------------------------------------------------


def voted(samples, vote, policy="paper", order="chosen_first"):
    log = [judged("rewardbench", (name, "i", None), s, order) for name in rewardbench.ITEMS for s in samples]
    rules = get_policy(policy, vote)
    return score_rows("rewardbench", "x", log, rules, draws=0).result.values()["Score"]


def test_the_mean_and_the_majority_of_samples():
    assert voted([True, True, False], "mean") == pytest.approx(2 / 3)
    assert voted([True, True, False], "majority") == 1.0
    assert voted([False, True, False, None], "majority") == 0.0
    assert voted([True, None, None], "majority") == 1.0  # who says nothing does not vote
    assert voted([True, None, None], "mean") == pytest.approx(1 / 3)
    # a draw is a tie, and nothing read is nothing read
    assert [voted([True, False], "majority", policy) for policy in ("paper", "rm_r1")] == [0.0, 0.5]
    assert [voted([None, None], "majority", p) for p in ("rm_r1", "rewardbench")] == [0.0, 0.5]
    assert voted([True], "majority") == voted([True], "mean") == 1.0
    with pytest.raises(UserError, match="unknown vote 'median'"):
        get_policy("paper", "median")


def test_orders_vote_apart_so_that_always_a_is_half():
    log = [
        dataclasses.replace(judged("rm_bench", pair, order == ORDERS[0], order), sample=sample)
        for pair in pairs_of("rm_bench", 2)
        for order in ORDERS
        for sample in range(3)
    ]
    run = score_rows("rm_bench", "x", log, get_policy("paper", "majority"))
    assert set(run.result.values().values()) == {0.5}
    assert run.result.notes[0] == "the majority of the samples of each order counts"
    assert run.result.statuses == {"ok": len(log)}


def test_the_majority_of_a_group_s_losers_decides_it():
    pairs = [("BoN_set/Harmlessness/S1", "g", cell) for cell in ("0", "1")]
    log = [judged("rmb", pair, right) for pair in pairs for right in (True, True, False)]
    for vote, value in (("mean", 4 / 9), ("majority", 1.0)):
        run = score_rows("rmb", "x", log, get_policy("paper", vote), partial=True)
        assert run.result.subsets[0].accuracy.value == pytest.approx(value)


# -- details -------------------------------------------------------------------------------------------------


def details_of(log, benchmark="rewardbench", policy="paper"):
    return score_rows(benchmark, "x", log, policy, partial=True, details=True).details


def test_a_judge_that_likes_long_answers_is_seen():
    pairs = [("hep-go", f"{i}", None) for i in range(80)]
    log = []
    for number, pair in enumerate(pairs):
        longer = number % 4 != 0  # the chosen answer is the longer one in three of four
        chars = {"chosen_chars": 20 + longer, "rejected_chars": 21 - longer, "turns": 1 + number % 2}
        log.append(judged("rewardbench", pair, longer, ORDERS[number % 2], **chars))
    log.append(judged("rewardbench", ("hep-go", "equal", None), True, chosen_chars=5, rejected_chars=5))
    found = details_of(log).figures()
    bias = found["length_bias"]
    assert bias["prefers_longer"]["value"] == 1.0 and bias["chosen_longer"]["value"] == 0.75
    assert (bias["longer"]["value"], bias["shorter"]["value"]) == (1.0, 0.0)
    assert bias["longer"]["judgements"] == 60 and bias["shorter"]["judgements"] == 20
    assert found["by_turns"]["1"]["value"] == 0.5 and found["by_turns"]["2"]["value"] == 1.0


def test_positions_read_what_the_policy_reads():
    log = [
        dataclasses.replace(
            judged("rmb", ("BoN_set/Harmlessness/S1", "g", "0"), None, order), text="<think>[[A]]"
        )
        for order in ORDERS
    ]
    quiet, loud = (details_of(log, "rmb", policy).figures()["positions"] for policy in ("paper", "rm_r1"))
    assert quiet["both"]["unread"]["value"] == 1.0
    assert loud["both"]["always_first"]["value"] == 1.0 and loud["position_a"]["value"] == 1.0


def test_accuracy_by_length_has_every_judgement_once():
    log = [
        dataclasses.replace(judged("rewardbench", ("hep-go", f"{i}", None), i < 51), tokens=i)
        for i in range(101)
    ]
    bins = details_of(log).figures()["by_tokens"]  # the one without a token is no response
    assert [(each["from"], each["to"]) for each in bins] == [(1, 25), (26, 50), (51, 75), (76, 100)]
    assert [each["accuracy"]["value"] for each in bins] == [1.0, 1.0, 0.0, 0.0]
    same = [dataclasses.replace(v, tokens=7) for v in log]
    (one,) = details_of(same).figures()["by_tokens"]
    assert (one["from"], one["to"], one["accuracy"]["judgements"]) == (7, 7, 101)


def test_cost_and_confusion_count_everything():
    log = [
        judged("rewardbench", ("hep-go", "1", None), True, ORDERS[0], prompt_tokens=10),
        judged("rewardbench", ("hep-go", "2", None), False, ORDERS[1], prompt_tokens=20),
        judged("rewardbench", ("hep-js", "3", None), None, ORDERS[1], prompt_tokens=30),
        dataclasses.replace(judged("rewardbench", ("hep-js", "4", None), None), tie=True, tokens=5),
        dataclasses.replace(
            judged("rewardbench", ("hep-js", "5", None), None), parse_status=TOO_LONG, tokens=0
        ),
    ]
    run = score_rows("rewardbench", "x", log, partial=True, details=True)
    assert run.result.statuses == {"ok": 2, "no_verdict": 1, TOO_LONG: 1, "tie": 1}
    found = run.details.figures()
    assert found["cost"]["response_tokens"] == 8 and found["cost"]["response_tokens_per_right"] == 8.0
    assert found["cost"]["prompt_tokens"] is None  # two rows do not say
    assert sum(n for row in found["confusion"].values() for n in row.values()) == 5
    assert found["confusion"]["hep-go"] | {} == {
        **dict.fromkeys(found["confusion"]["hep-go"], 0),
        "A_A": 1,
        "B_A": 1,
    }
    assert (found["confusion"]["hep-js"]["A_tie"], found["confusion"]["hep-js"]["B_none"]) == (1, 1)


def test_a_seeded_always_a_judge_shows_as_one():
    pairs = pairs_of("rewardbench", 20)
    log = []
    for pair in pairs:
        order = ORDERS[derive_seed(3, "order", "/".join(map(str, pair))) % 2]
        log.append(judged("rewardbench", pair, order == ORDERS[0], order))
    run = score_rows("rewardbench", "x", log, details=True)
    score = run.result.scores["Score"]
    assert score.low - 0.03 < 0.5 < score.high + 0.03
    assert run.details.figures()["positions"]["position_a"]["value"] == 1.0

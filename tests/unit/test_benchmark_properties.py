# SPDX-License-Identifier: Apache-2.0
"""Invariants of every verdict log: row order, sharding, swapped answers, and judges with known scores."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from reasongrm_nemo.data.jsonl import write_jsonl
from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.evaluation import SCORING_RULES, rewardbench, rm_bench, rmb
from reasongrm_nemo.evaluation.accuracy import accuracy, combine
from reasongrm_nemo.evaluation.benchmarks import score_log, score_rows
from reasongrm_nemo.evaluation.registry import MODULES

ORDERS = ("chosen_first", "rejected_first")
SWAP = str.maketrans("AB", "BA")
TEXTS = {
    "A": "x</think>[[A]]",
    "B": "x</think>[[B]]",
    "none": "x</think>",
    "aloud": "[[A]] or [[B]]?</think>[[A]]",
    "both": "x</think>[[A]][[B]]",
}
ONE_SIDED = ("A", "B", "none")


def evaluate(benchmark, log, policy="paper", partial=False):
    return score_rows(benchmark, "log", log, policy, partial, draws=0).result


def pairs_of(benchmark, items=2):
    """(subset, item, cell) of each pair of a small but whole benchmark."""
    if benchmark == "rewardbench":
        return [(name, f"{i}", None) for name in rewardbench.ITEMS for i in range(items)]
    if benchmark == "rm_bench":
        cells = sorted(rm_bench.CELLS)
        return [(name, f"{i}", cell) for name in rm_bench.ITEMS for i in range(items) for cell in cells]
    subsets = [(name, ("0", "1", "2") if rmb.is_best_of_n(name) else (None,)) for name in rmb.counts()]
    return [(name, f"{i}", cell) for name, cells in subsets for i in range(items) for cell in cells]


def row(benchmark, pair, order, text):
    return Verdict(benchmark, *pair, order, None, False, False, "unread", 1, text)


def swapped(verdict):
    order = ORDERS[1 - ORDERS.index(verdict.order)]
    return replace(verdict, order=order, text=verdict.text.translate(SWAP))


def random_log(benchmark, rng, kinds=tuple(TEXTS), both=False):
    log = []
    for pair in pairs_of(benchmark):
        for order in ORDERS if both else (rng.choice(ORDERS),):
            log.append(row(benchmark, pair, order, TEXTS[rng.choice(kinds)]))
    return log


ANY = {"benchmark": st.sampled_from(sorted(MODULES)), "policy": st.sampled_from(sorted(SCORING_RULES))}


@settings(max_examples=25, deadline=None)
@given(**ANY, seed=st.integers(0, 2**32), both=st.booleans())
def test_row_order_and_sharding_change_no_digit(benchmark, policy, seed, both, tmp_path_factory):
    rng = random.Random(seed)
    log = random_log(benchmark, rng, both=both)
    expected = evaluate(benchmark, log, policy)
    rng.shuffle(log)
    cuts = sorted(rng.randrange(len(log) + 1) for _ in range(3))
    folder = tmp_path_factory.mktemp("shards")
    files = []
    for number, (start, stop) in enumerate(zip([0, *cuts], [*cuts, len(log)], strict=True)):
        files.append(folder / f"{number}.jsonl")
        write_jsonl(files[-1], log[start:stop])
    result = score_log(benchmark, files, policy, draws=0).result
    assert result.values() == expected.values()
    assert result.statuses == expected.statuses
    for name, score in expected.scores.items():
        # the squares of the intervals are summed in another order
        assert result.scores[name].low == pytest.approx(score.low, abs=1e-12)
        assert result.scores[name].high == pytest.approx(score.high, abs=1e-12)
    assert [(r.name, r.accuracy.value, r.unparsable) for r in result.subsets] == [
        (r.name, r.accuracy.value, r.unparsable) for r in expected.subsets
    ]


@settings(max_examples=25, deadline=None)
@given(**ANY, seed=st.integers(0, 2**32))
def test_swapping_the_answers_and_the_verdicts_changes_nothing(benchmark, policy, seed):
    # RewardBench's parser prefers A where both are present, so its texts name one answer only.
    kinds = ONE_SIDED if policy == "rewardbench" else tuple(TEXTS)
    log = random_log(benchmark, random.Random(seed), kinds)
    result = evaluate(benchmark, [swapped(verdict) for verdict in log], policy)
    assert result == evaluate(benchmark, log, policy)


def test_rewardbench_s_parser_favours_the_first_answer():
    log = [row("rewardbench", pair, "chosen_first", TEXTS["both"]) for pair in pairs_of("rewardbench")]
    assert evaluate("rewardbench", log, "rewardbench").values()["Score"] == 1.0
    result = evaluate("rewardbench", [swapped(verdict) for verdict in log], "rewardbench")
    assert result.values()["Score"] == 0.0


@pytest.mark.parametrize("policy", SCORING_RULES)
@pytest.mark.parametrize("benchmark", MODULES)
def test_a_perfect_judge_scores_100_and_a_perverse_one_0(benchmark, policy):
    for right in (True, False):
        log = [
            row(benchmark, pair, order, TEXTS["AB"[(order == ORDERS[0]) != right]])
            for pair in pairs_of(benchmark)
            for order in ORDERS
        ]
        result = evaluate(benchmark, log, policy)
        assert set(result.values().values()) == {float(right)}
        for score in result.scores.values():
            assert 0 < score.high - score.low < 1


@pytest.mark.parametrize("policy", SCORING_RULES)
@pytest.mark.parametrize("benchmark", MODULES)
def test_an_always_a_judge_scores_exactly_half_under_both_orders(benchmark, policy):
    log = [row(benchmark, pair, order, TEXTS["A"]) for pair in pairs_of(benchmark) for order in ORDERS]
    scores = evaluate(benchmark, log, policy).values()
    groups = {"BoN Helpfulness": 1 / 8, "BoN Harmlessness": 1 / 8, "Overall": (1 / 2 + 1 / 8) / 2}
    expected = {name: groups.get(name, 0.5) if benchmark == "rmb" else 0.5 for name in scores}
    assert scores == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("benchmark", MODULES)
def test_an_always_a_judge_scores_half_within_noise_under_seeded_order(benchmark):
    log = [
        row(benchmark, pair, ORDERS[derive_seed(3, "order", str(pair), 0) % 2], TEXTS["A"])
        for pair in pairs_of(benchmark, items=20)
    ]
    result = evaluate(benchmark, log, "paper")
    for name, score in result.scores.items():
        truth = {"BoN": 1 / 8, "Ove": 5 / 16}.get(name[:3], 0.5)
        half = (score.high - score.low) / 2
        assert abs(score.value - truth) < 2 * half, name  # four standard errors


def test_unparsable_judgements_are_worth_what_the_policy_says():
    for policy, worth in (("paper", 0.0), ("rm_r1", 0.0), ("rewardbench", 0.5)):
        log = [row("rewardbench", pair, "chosen_first", TEXTS["none"]) for pair in pairs_of("rewardbench")]
        result = evaluate("rewardbench", log, policy)
        assert result.values()["Score"] == worth
        assert result.statuses == {"no_verdict": 46}
        assert {subset.unparsable for subset in result.subsets} == {2}


@pytest.mark.parametrize(("policy", "worth"), [("paper", 0.0), ("rm_r1", 0.5), ("rewardbench", 0.5)])
def test_a_tie_is_worth_what_the_policy_says_and_fails_a_group(policy, worth):
    log = [Verdict("rmb", *pair, "chosen_first", None, False, True, "ok", 1, "") for pair in pairs_of("rmb")]
    scores = evaluate("rmb", log, policy).values()
    assert scores["Pairwise Helpfulness"] == worth
    assert scores["BoN Helpfulness"] == 0.0


def test_a_row_without_text_stands_as_recorded():
    log = [
        Verdict("rm_bench", *pair, "rejected_first", "B", True, False, "ok", 1, "")
        for pair in pairs_of("rm_bench")
    ]
    assert {evaluate("rm_bench", log, policy).values()["avg"] for policy in SCORING_RULES} == {1.0}


def test_scalar_rows_are_compared_strictly():
    log = []
    for number, (subset, item, cell) in enumerate(pairs_of("rm_bench", items=1)):
        scores = {"chosen_score": 0.25, "rejected_score": (0.25, 0.5, -1)[number % 3]}
        data = {"benchmark": "rm_bench", "subset": subset, "item_id": item, "cell": cell}
        log.append(Verdict.from_dict({**data, **scores}))
    result = evaluate("rm_bench", log)
    # Cells are in row order: the first column of every row is a tie, the second is lost, the third won.
    assert result.values()["avg"] == pytest.approx(1 / 3)
    assert result.values()["hard"] == pytest.approx(2 / 3) and result.values()["easy"] == 0.0
    assert result.statuses == {"ok": 30, "tie": 15}


def test_a_score_higher_by_the_last_bit_wins():
    data = {"benchmark": "rmb", "subset": "BoN_set/Harmlessness/S1", "item_id": "i", "cell": "0"}
    for rejected, share in ((np.nextafter(0.1, 0), 1.0), (0.1, 0.0), (np.nextafter(0.1, 1), 0.0)):
        log = [Verdict.from_dict({**data, "chosen_score": 0.1, "rejected_score": float(rejected)})]
        assert evaluate("rmb", log, partial=True).subsets[0].accuracy.value == share


def test_a_combined_interval_covers_the_truth_95_times_in_100():
    rng = np.random.default_rng(5)
    sizes, weights = [40, 90, 25, 150], [0.4, 0.3, 0.2, 0.1]
    truth = np.array([0.9, 0.7, 0.97, 0.5])
    value = float(truth @ weights)
    inside = 0
    for _ in range(1000):
        parts = [accuracy((rng.random(n) < p).astype(float)) for n, p in zip(sizes, truth, strict=True)]
        combined = combine(list(zip(weights, parts, strict=True)))
        inside += combined.low <= value <= combined.high
    # 1,000 draws: the standard error of the coverage is 0.7 points
    assert 0.93 < inside / 1000 < 0.975

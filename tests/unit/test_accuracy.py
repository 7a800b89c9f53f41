# SPDX-License-Identifier: Apache-2.0
import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.evaluation.accuracy import Z95, accuracy, summarize_verdicts


def test_one_judgement_per_item_gives_the_wilson_interval():
    # the worked examples of Newcombe (1998), "Two-sided confidence intervals for the single proportion"
    table = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]
    for right, count, low, high in table:
        result = accuracy([1.0] * right + [0.0] * (count - right))
        assert result.method == "wilson"
        assert (result.value, result.judgements, result.items) == (right / count, count, count)
        assert (result.low, result.high) == pytest.approx((low, high), abs=5e-5)


def test_samples_of_one_item_are_not_independent_evidence():
    # 100 items, each with 8 identical judgements: as uncertain as 100 judgements, not as 800
    outcomes = [float(item % 4 > 0) for item in range(100) for _ in range(8)]
    items = [item for item in range(100) for _ in range(8)]
    result = accuracy(outcomes, items)
    assert (result.method, result.items, result.judgements) == ("clustered", 100, 800)
    half = Z95 * math.sqrt(0.75 * 0.25 / 99)
    assert (result.low, result.high) == pytest.approx((0.75 - half, 0.75 + half))


def test_clusters_by_hand():
    # items (1, 0), (1, 1), (0): mean .6; residual sums -.2, .8, -.6: squares .04 + .64 + .36 = 1.04
    # variance 3/2 * 1.04 / 25 = .0624
    result = accuracy([1, 0, 1, 1, 0], ["a", "a", "b", "b", "c"])
    assert result.value == pytest.approx(0.6)
    assert result.high == 1.0  # clipped
    assert result.low == pytest.approx(0.6 - Z95 * math.sqrt(0.0624))


JUDGED = st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 6))


@given(st.lists(JUDGED, min_size=1, max_size=60), st.randoms())
def test_intervals_contain_the_value_in_any_order(judged, rng):
    result = accuracy([y for y, _ in judged], [item for _, item in judged])
    assert 0.0 <= result.low <= result.value <= result.high <= 1.0
    assert result.low < result.high
    rng.shuffle(judged)
    again = accuracy([y for y, _ in judged], [item for _, item in judged])
    assert (again.low, again.high) == pytest.approx((result.low, result.high))


def test_identical_outcomes_do_not_claim_certainty():
    result = accuracy([1.0] * 40, [i // 4 for i in range(40)])
    assert (result.value, result.high, result.method, result.items) == (1.0, 1.0, "wilson", 10)
    assert result.low == pytest.approx(10 / (10 + Z95**2))
    assert accuracy([1, 0, 1], ["a"] * 3).low < 0.1


def test_the_interval_covers_the_truth():
    rng = random.Random(3)
    covered = 0
    for _ in range(300):
        chances = [rng.choice([0.2, 0.7, 0.95]) for _ in range(80)]
        outcomes = [float(rng.random() < chance) for chance in chances for _ in range(4)]
        result = accuracy(outcomes, [index // 4 for index in range(320)])
        covered += result.low <= (0.2 + 0.7 + 0.95) / 3 <= result.high
    assert 270 <= covered <= 297


def test_empty_and_invalid_outcomes():
    assert accuracy([]).to_dict() == {
        "value": None, "low": 0.0, "high": 1.0, "judgements": 0, "items": 0, "method": "none",
    }  # fmt: skip
    for wrong in (2.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="within"):
            accuracy([wrong])
    with pytest.raises(ValueError, match="1 items for 2"):
        accuracy([1, 0], ["a"])


def verdict(item, order, said, tokens=10, cell=None, subset="chat", tie=False):
    right = said is not None and (said == "A") == (order == "chosen_first")
    status = "ok" if said else "no_verdict"
    return Verdict("bench", subset, item, cell, order, said, right, tie, status, tokens, "text")


def test_the_summary_shows_position_bias():
    # a judge that always says A: half right, never consistent
    orders = ("chosen_first", "rejected_first")
    verdicts = [verdict(str(i), order, "A") for i in range(20) for order in orders]
    figures = json.loads(json.dumps(summarize_verdicts(verdicts), allow_nan=False))
    assert figures["accuracy"]["value"] == 0.5
    assert figures["accuracy_by_order"]["chosen_first"]["value"] == 1.0
    assert figures["accuracy_by_order"]["rejected_first"]["value"] == 0.0
    assert figures["position_a"]["value"] == 1.0
    assert figures["label_a"] == 0.5
    assert figures["agreement_between_orders"] == 0.0


def test_the_summary_counts():
    verdicts = [
        verdict("1", "chosen_first", "A", 10),
        verdict("1", "rejected_first", "B", 20),
        verdict("2", "chosen_first", None, 300),
        verdict("2", "rejected_first", None, 30),
        verdict("2", "chosen_first", "B", 40, subset="hard", tie=True),
    ]
    figures = summarize_verdicts(verdicts, tie_credit=0.5)
    assert figures["accuracy"]["value"] == pytest.approx(2.5 / 5)
    assert figures["accuracy"]["items"] == 3
    assert figures["statuses"] == {"ok": 3, "no_verdict": 2}
    assert (figures["ties"], figures["no_verdict"]) == (1, 2)
    assert figures["position_a"]["value"] == pytest.approx(1 / 3)
    assert figures["agreement_between_orders"] == 0.5  # two missing verdicts do not agree
    assert figures["tokens"] == {"mean": 80.0, "median": 30.0, "q0.95": pytest.approx(248.0), "total": 400}
    with pytest.raises(ValueError, match="tie"):
        summarize_verdicts([], tie_credit=2)
    assert summarize_verdicts([])["tokens"] is None


def test_cells_of_one_item_count_as_one_item():
    cells = [verdict("1", "chosen_first", "A", cell=f"{i}-{j}") for i in range(3) for j in range(3)]
    other = [verdict("2", "chosen_first", "B", cell="0-0")]
    assert summarize_verdicts(cells + other)["accuracy"]["items"] == 2

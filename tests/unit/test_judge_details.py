# SPDX-License-Identifier: Apache-2.0
"""Votes over samples and orders, and the figures that a log gives besides its scores."""

import pytest
from judged_logs import ORDERS, judged, pairs_of
from msgspec.structs import replace

from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation import rewardbench
from reasongrm_nemo.evaluation.benchmarks import score_rows
from reasongrm_nemo.evaluation.policies import get_policy
from reasongrm_nemo.evaluation.tasks import TOO_LONG


def voted(samples, vote, policy="paper", order="chosen_first"):
    log = [judged("rewardbench", (name, "i", None), s, order) for name in rewardbench.ITEMS for s in samples]
    rules = get_policy(policy, vote)
    return score_rows("rewardbench", "x", log, rules, draws=0).result.values()["Score"]


def test_the_mean_and_the_majority_of_samples():
    assert voted([True, True, False], "mean") == pytest.approx(2 / 3)
    assert voted([True, True, False], "majority") == 1.0
    assert voted([False, True, False, None], "majority") == 0.0
    assert voted([True, None, None], "majority") == 1.0  # a sample without a verdict does not vote
    assert voted([True, None, None], "mean") == pytest.approx(1 / 3)
    # a draw counts as a tie; if no sample has a verdict, neither has the vote
    assert [voted([True, False], "majority", policy) for policy in ("paper", "rm_r1")] == [0.0, 0.5]
    assert [voted([None, None], "majority", p) for p in ("rm_r1", "rewardbench")] == [0.0, 0.5]
    assert voted([True], "majority") == voted([True], "mean") == 1.0
    with pytest.raises(UserError, match="unknown vote 'median'"):
        get_policy("paper", "median")


def test_orders_vote_separately_so_that_always_a_scores_half():
    log = [
        replace(judged("rm_bench", pair, order == ORDERS[0], order), sample=sample)
        for pair in pairs_of("rm_bench", 2)
        for order in ORDERS
        for sample in range(3)
    ]
    run = score_rows("rm_bench", "x", log, get_policy("paper", "majority"))
    assert set(run.result.values().values()) == {0.5}
    assert run.result.notes[0] == "scored by the majority of the samples in each order"
    assert run.result.statuses == {"ok": len(log)}


def test_each_loser_of_a_group_is_decided_by_the_majority():
    pairs = [("BoN_set/Harmlessness/S1", "g", cell) for cell in ("0", "1")]
    log = [judged("rmb", pair, right) for pair in pairs for right in (True, True, False)]
    for vote, value in (("mean", 4 / 9), ("majority", 1.0)):
        run = score_rows("rmb", "x", log, get_policy("paper", vote), partial=True)
        assert run.result.subsets[0].accuracy.value == pytest.approx(value)


def details_of(log, benchmark="rewardbench", policy="paper"):
    return score_rows(benchmark, "x", log, policy, partial=True, details=True).details


def test_a_preference_for_long_answers_shows():
    pairs = [("hep-go", f"{i}", None) for i in range(80)]
    log = []
    for number, pair in enumerate(pairs):
        longer = number % 4 != 0  # the chosen answer is the longer one in three of four
        chars = {"chosen_chars": 20 + longer, "rejected_chars": 21 - longer, "turns": 1 + number % 2}
        log.append(judged("rewardbench", pair, longer, ORDERS[number % 2], **chars))
    log.append(judged("rewardbench", ("hep-go", "equal", None), True, chosen_chars=5, rejected_chars=5))
    figures = details_of(log).figures()
    bias = figures["length_bias"]
    assert bias["prefers_longer"]["value"] == 1.0 and bias["chosen_longer"]["value"] == 0.75
    assert (bias["longer"]["value"], bias["shorter"]["value"]) == (1.0, 0.0)
    assert bias["longer"]["judgements"] == 60 and bias["shorter"]["judgements"] == 20
    assert figures["by_turns"]["1"]["value"] == 0.5 and figures["by_turns"]["2"]["value"] == 1.0


def test_positions_count_the_verdicts_that_the_policy_reads():
    log = [
        replace(judged("rmb", ("BoN_set/Harmlessness/S1", "g", "0"), None, order), text="<think>[[A]]")
        for order in ORDERS
    ]
    quiet, loud = (details_of(log, "rmb", policy).figures()["positions"] for policy in ("paper", "rm_r1"))
    assert quiet["both"]["unread"]["value"] == 1.0
    assert loud["both"]["always_first"]["value"] == 1.0 and loud["position_a"]["value"] == 1.0


def test_accuracy_by_length_counts_every_judgement_once():
    log = [replace(judged("rewardbench", ("hep-go", f"{i}", None), i < 51), tokens=i) for i in range(101)]
    bins = details_of(log).figures()["by_tokens"]  # a judgement of 0 tokens has no response
    assert [(entry["from"], entry["to"]) for entry in bins] == [(1, 25), (26, 50), (51, 75), (76, 100)]
    assert [entry["accuracy"]["value"] for entry in bins] == [1.0, 1.0, 0.0, 0.0]
    same = [replace(v, tokens=7) for v in log]
    (one,) = details_of(same).figures()["by_tokens"]
    assert (one["from"], one["to"], one["accuracy"]["judgements"]) == (7, 7, 101)


def test_cost_and_confusion_count_everything():
    log = [
        judged("rewardbench", ("hep-go", "1", None), True, ORDERS[0], prompt_tokens=10),
        judged("rewardbench", ("hep-go", "2", None), False, ORDERS[1], prompt_tokens=20),
        judged("rewardbench", ("hep-js", "3", None), None, ORDERS[1], prompt_tokens=30),
        replace(judged("rewardbench", ("hep-js", "4", None), None), tie=True, tokens=5),
        replace(judged("rewardbench", ("hep-js", "5", None), None), parse_status=TOO_LONG, tokens=0),
    ]
    run = score_rows("rewardbench", "x", log, partial=True, details=True)
    assert run.result.statuses == {"ok": 2, "no_verdict": 1, TOO_LONG: 1, "tie": 1}
    figures = run.details.figures()
    assert figures["cost"]["response_tokens"] == 8 and figures["cost"]["response_tokens_per_right"] == 8.0
    assert figures["cost"]["prompt_tokens"] is None  # two rows do not record them
    assert sum(n for row in figures["confusion"].values() for n in row.values()) == 5
    assert figures["confusion"]["hep-go"] | {} == {
        **dict.fromkeys(figures["confusion"]["hep-go"], 0),
        "A_A": 1,
        "B_A": 1,
    }
    assert (figures["confusion"]["hep-js"]["A_tie"], figures["confusion"]["hep-js"]["B_none"]) == (1, 1)


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

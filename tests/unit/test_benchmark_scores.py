# SPDX-License-Identifier: Apache-2.0
"""Published scores recomputed from what was published with them (tests/data/published_scores)."""

import json
from fractions import Fraction
from pathlib import Path

import pytest

from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.evaluation import rewardbench, rm_bench, rmb
from reasongrm_nemo.evaluation.benchmarks import score_rows

DATA = Path(__file__).parents[1] / "data" / "published_scores"
RM_R1 = json.loads((DATA / "rm_r1.json").read_text())
ARMORM = json.loads((DATA / "armorm_rmb_pairs.json").read_text())
# The released figures are float64 sums in another order, so they differ by a few units in the last place.
EXACT = 1e-12
RMB_COUNTS = {
    "RM-R1-DeepSeek-Distilled-Qwen-32B": [(7907, 10067), (5425, 7064), (1307, 2109), (1036, 1677)],
    "RM-R1-Qwen2.5-Instruct-32B": [(8071, 10067), (5692, 7064), (1372, 2109), (1111, 1677)],
}
"""Right items and all items of every part of RMB."""


def row(benchmark, subset, item, cell, right, order="chosen_first"):
    side = "AB"[right != (order == "chosen_first")]
    return Verdict(benchmark, subset, item, cell, order, side, right, False, "ok", 0, "")


def evaluate(benchmark, log, policy="paper", partial=False):
    return score_rows(benchmark, "log", log, policy, partial, draws=0).result


def test_rewardbench_counts():
    assert sum(rewardbench.ITEMS.values()) == 2985
    totals = {section: sum(weights.values()) for section, weights in rewardbench.SECTIONS.items()}
    assert totals == {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 1968}


@pytest.mark.parametrize("model", RM_R1)
def test_rewardbench_from_verdicts_of_the_released_accuracies(model):
    published = RM_R1[model]["rewardbench"]
    log = []
    for name, items in rewardbench.ITEMS.items():
        right = published["subsets"][name] * items
        assert right == pytest.approx(round(right), abs=1e-9)
        log += [row("rewardbench", name, f"{i}", None, i < round(right)) for i in range(items)]
    result = evaluate("rewardbench", log)
    for section in rewardbench.SECTIONS:
        assert result.values()[section] == pytest.approx(published["sections"][section], abs=EXACT, rel=0)
    score = result.scores["Score"]
    assert score.value == pytest.approx(published["sections"]["avg_Result_each_section"], abs=EXACT, rel=0)
    micro = sum(subset.accuracy.value * subset.expected_items for subset in result.subsets) / 2985
    assert micro == pytest.approx(published["sections"]["absoluate_Result"], abs=EXACT, rel=0)
    # 456 to 1,968 items a section: the standard error of the mean of four is below a point
    assert 0.01 < score.high - score.low < 0.03
    assert result.notes == []


def test_rmb_counts():
    known = rmb.counts()
    assert len(known) == 98
    for beginning, items, pairs in [
        ("Pairwise_set/Helpfulness/", 10067, 10067),
        ("Pairwise_set/Harmlessness/", 7064, 7064),
        ("BoN_set/Helpfulness/", 2109, 4895),
        ("BoN_set/Harmlessness/", 1677, 3819),
    ]:
        counts = [count for name, count in known.items() if name.startswith(beginning)]
        assert [sum(column) for column in zip(*counts, strict=True)] == [items, pairs]


@pytest.mark.parametrize("model", RM_R1)
def test_rmb_from_verdicts_of_the_released_accuracies(model):
    published = RM_R1[model]["rmb"]
    log = []
    for name, (items, pairs) in rmb.counts().items():
        right = round(published["subsets"][name] * items)
        for i in range(items):
            if not rmb.is_best_of_n(name):
                log.append(row("rmb", name, f"{i}", None, i < right))
                continue
            losers = pairs // items + (i < pairs % items)
            # A lost group is lost to one of its losers only.
            log += [row("rmb", name, f"{i}", f"{j}", i < right or j != i % losers) for j in range(losers)]
    result = evaluate("rmb", log)
    for part in rmb.PARTS:
        assert result.values()[part] == pytest.approx(published["parts"][part], abs=EXACT, rel=0)
    for part, (right, total) in zip(rmb.PARTS, RMB_COUNTS[model], strict=True):
        assert result.values()[part] == pytest.approx(right / total, abs=EXACT, rel=0)
    for name, counted in zip(("Helpfulness", "Harmlessness"), RMB_COUNTS[model][2:], strict=True):
        totals = published["totals"][f"BoN_set/{name}"]
        said = totals["BoN Absolute Number of Correct"], totals["BoN Absolute Total Numbers"]
        assert said == counted
    overall = published["parts"]["Accuracy Averaged from Four Sections"]
    assert result.values()["Overall"] == pytest.approx(overall, abs=EXACT, rel=0)
    assert result.notes == []


@pytest.mark.parametrize("policy", ["paper", "rm_r1", "rewardbench"])
def test_armorm_675_of_849_with_its_12_ties_wrong(policy):
    log = []
    for uid, chosen, rejected, correct in ARMORM["rows"]:
        data = {"benchmark": "rmb", "subset": ARMORM["subset"], "item_id": uid, "cell": None}
        verdict = Verdict.from_dict({**data, "chosen_score": chosen, "rejected_score": rejected})
        assert verdict.correct == bool(correct)
        log.append(verdict)
    result = evaluate("rmb", log, policy, partial=True)
    (subset,) = result.subsets
    assert subset.accuracy.value == 675 / 849
    assert (subset.ties, subset.unparsable, subset.judgements, subset.expected_items) == (12, 0, 849, 849)
    assert result.values() == {}  # one subset of 37 makes no part


@pytest.mark.parametrize("model", RM_R1)
def test_rm_bench_averages_are_consistent(model):
    published = RM_R1[model]["rm_bench"]
    domains = sum(published[name] for name in rm_bench.DOMAINS) / 4
    difficulties = sum(published[f"{name}_acc"] for name in rm_bench.DIFFICULTIES) / 3
    assert domains == pytest.approx(published["total_avg_acc"], abs=EXACT, rel=0)
    assert difficulties == pytest.approx(published["total_avg_acc"], abs=EXACT, rel=0)
    items = {"chat": 129, "math": 529, "code": 228, "safety": 284 + 157}
    for domain, count in items.items():  # nine pairs a prompt, so the score is a count of 9 n
        right = published[domain] * 9 * count
        assert right == pytest.approx(round(right), abs=1e-8)


def rm_bench_log(right_cells, items=3, subsets=rm_bench.ITEMS):
    return [
        row("rm_bench", subset, f"{i}", cell, cell in right_cells)
        for subset in subsets
        for i in range(items)
        for cell in sorted(rm_bench.CELLS)
    ]


@pytest.mark.parametrize(
    ("right", "easy", "normal", "hard"),
    [
        ({"1-0", "2-0", "2-1"}, 1, 0, 0),
        ({"0-0", "1-1", "2-2"}, 0, 1, 0),
        ({"0-1", "0-2", "1-2"}, 0, 0, 1),
        ({"2-0"}, Fraction(1, 3), 0, 0),
        ({"0-2", "1-1"}, 0, Fraction(1, 3), Fraction(1, 3)),
    ],
)
def test_rm_bench_matrix(right, easy, normal, hard):
    scores = evaluate("rm_bench", rm_bench_log(right)).values()
    expected = {"easy": easy, "normal": normal, "hard": hard, "avg": (easy + normal + hard) / Fraction(3)}
    for domain in rm_bench.DOMAINS:
        expected[domain] = expected["avg"]
    assert scores == pytest.approx({name: float(value) for name, value in expected.items()}, abs=EXACT, rel=0)
    assert list(scores) == ["chat", "math", "code", "safety", "easy", "normal", "hard", "avg"]


def test_rm_bench_pools_safety_by_prompts_and_averages_domains_evenly():
    log = rm_bench_log(rm_bench.CELLS, 3, ["safety-refuse"])
    log += rm_bench_log(set(), 1, ["safety-response", "chat", "math", "code"])
    scores = evaluate("rm_bench", log).values()
    assert scores["safety"] == 0.75
    assert scores["avg"] == scores["hard"] == pytest.approx(0.75 / 4)


@pytest.mark.parametrize(
    ("cell", "easy", "hard"),
    [
        ("0-1", 0, 0),  # never scored
        ("1-2", 0, 0),  # never scored
        ("2-0", 0, 0),  # never scored
        ("0-2", 0, 2),  # counted twice
        ("1-0", 1, 1),  # an easy cell, counted as hard too
        ("2-1", 2, 0),  # counted twice
    ],
)
def test_the_fault_in_rm_r1s_aggregation_of_rm_bench(cell, easy, hard):
    log = rm_bench_log({cell})
    released = evaluate("rm_bench", log, "rm_r1").values()
    assert released["easy"] == pytest.approx(easy / 3, abs=EXACT)
    assert released["hard"] == pytest.approx(hard / 3, abs=EXACT)
    assert released["avg"] == pytest.approx((easy + hard) / 9, abs=EXACT)
    right = evaluate("rm_bench", log).values()
    assert right["easy"] + right["hard"] == pytest.approx(1 / 3, abs=EXACT)
    (note,) = [note for note in evaluate("rm_bench", log, "rm_r1").notes if "as released" in note]
    assert "avg 11.11" in note


def test_under_the_fault_hard_and_easy_have_equal_parity():
    """The trace of the fault in the released figures: hard and easy are 2 x + y and y + 2 z."""
    for number, cells in enumerate([{"0-2", "1-0"}, {"1-0", "2-1"}, {"0-1", "2-1"}, {"1-0"}, set()]):
        scores = evaluate("rm_bench", rm_bench_log(cells, 1 + number % 2), "rm_r1").values()
        items = 1 + number % 2
        hard, easy = (round(scores[name] * 3 * items) for name in ("hard", "easy"))
        assert (hard - easy) % 2 == 0

# SPDX-License-Identifier: Apache-2.0
"""R* (section 3.3): the score, the choice, the report."""

import json
import math
import random
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reasongrm_nemo.data.records import JudgeTask, ReasoningPath, SftExample
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.rstar import (
    Floors,
    HesitationCounter,
    Report,
    count_hesitations,
    hesitation,
    ineligible,
    path_sums,
    score_path,
    score_sums,
    select_paths,
    selection_report,
    side_by_side,
    to_sft_example,
)
from reasongrm_nemo.rstar.hesitation import HESITATION
from reasongrm_nemo.rstar.select import Selector
from reasongrm_nemo.rstar.table import PathTable

PROBS = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40)


def path(
    task="t", sample=0, reasoning=(0.5, 0.5), answer=(0.5,), correct=True, finish="stop", text="x</think>"
):
    return ReasoningPath(
        task_id=task,
        sample=sample,
        text=text,
        reasoning_tokens=len(reasoning),
        answer_tokens=len(answer),
        reasoning_prob_sum=math.fsum(reasoning),
        answer_prob_sum=math.fsum(answer),
        verdict="A" if correct else "B",
        parse_status="ok",
        correct=correct,
        finish_reason=finish,
        model="zero",
    )


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
    # and it is the product of two means, not the mean over all tokens
    assert score_path([1.0] * 9, [0.1]).score == pytest.approx(0.1)


@given(PROBS, PROBS)
def test_scores_stay_between_0_and_1_and_ignore_order(reasoning, answer):
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
def test_what_is_no_path_is_refused(reasoning, answer, says):
    with pytest.raises(ValueError, match=says):
        score_path(reasoning, answer)


def test_sums_that_cannot_be_are_refused():
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


def test_only_right_whole_paths_are_chosen():
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


def many(tasks=60, samples=8, seed=0):
    rng = random.Random(seed)
    return [
        path(
            f"task{task:03}",
            sample,
            [rng.random() for _ in range(rng.randrange(1, 9))],
            [rng.random() for _ in range(rng.randrange(1, 4))],
            correct=rng.random() < 0.6,
            text="wait, " * rng.randrange(3) + "</think>",
        )
        for task in range(tasks)
        for sample in range(samples)
    ]


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
    """The order the documentation states, path by path."""

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


def test_floors_leave_out_whom_every_strategy_might_have_chosen():
    low, high = path(sample=0, reasoning=[0.5], answer=[0.6]), path(sample=1, reasoning=[0.4], answer=[0.9])
    for floors, reasons in (
        (Floors(), [None, None]),
        (Floors(r_star=0.35), ["low_r_star", None]),
        (Floors(self_consistency=0.5), [None, "low_self_consistency"]),
        (Floors(validity=0.7), ["low_validity", None]),
        (Floors(r_star=0.36), ["low_r_star", None]),  # at the floor is above it
    ):
        assert [ineligible(p, floors) for p in (low, high)] == reasons
        for strategy in ("r_star", "random", "shortest", "all"):
            kept = [p for p, reason in zip((low, high), reasons, strict=True) if reason is None]
            assert set(select_paths([low, high], strategy, floors=floors)) <= set(kept)
    report = selection_report([low, high], floors=Floors(r_star=0.35))
    assert report["ineligible_paths"] == {"low_r_star": 1}


def test_mistakes_of_the_caller_are_named():
    with pytest.raises(ValueError, match="got top_k 0"):
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


def test_the_report_agrees_with_the_selection():
    paths = many()
    report = json.loads(json.dumps(selection_report(iter(paths), seed=5), allow_nan=False))
    tasks = {p.task_id for p in paths}
    right = {p.task_id for p in paths if p.correct}
    assert report["tasks"] == len(tasks)
    assert report["tasks_without_right_path"] == len(tasks - right)
    assert report["paths"] == len(paths)
    assert report["right_paths"] == sum(p.correct for p in paths)
    assert report["ineligible_paths"] == {"wrong": len(paths) - report["right_paths"]}
    for strategy in ("r_star", "random", "shortest"):
        chosen = select_paths(paths, strategy, seed=5)
        figures = report["sets"][f"chosen_{strategy}"]
        assert figures["paths"] == len(chosen)
        scores = [score_sums(p).score for p in chosen]
        assert figures["r_star"]["mean"] == pytest.approx(np.mean(scores))
        assert figures["r_star"]["q0.5"] == pytest.approx(np.median(scores))
        assert figures["length"]["q1"] == max(p.reasoning_tokens + p.answer_tokens for p in chosen)
        assert figures["hesitations_per_path"] == pytest.approx(
            np.mean([p.text.count("wait") for p in chosen])
        )
    sets = report["sets"]
    assert sets["rejected_by_r_star"]["paths"] == sets["eligible"]["paths"] - sets["chosen_r_star"]["paths"]
    chosen = select_paths(paths)
    scores = [score_sums(p).score for p in paths if p.correct and p not in chosen]
    assert sets["rejected_by_r_star"]["r_star"]["mean"] == pytest.approx(np.mean(scores))
    assert sets["chosen_r_star"]["r_star"]["mean"] > sets["chosen_random"]["r_star"]["mean"]
    assert sets["wrong"]["paths"] == len(paths) - report["right_paths"]
    assert 0 <= report["agreement"]["random"] <= 1
    assert -1 <= report["r_star_length_correlation"] <= 1


def test_a_table_scores_as_path_by_path_to_the_bit():
    rng = random.Random(3)
    sides = [path("x", n, [], [0.5]) for n in range(2)] + [path("y", 0, [0.5], [])]
    paths = [*many(), *sides, path("over", 0, [1.0] * 3, [1.0 + 5e-7])]
    rng.shuffle(paths)
    table = PathTable.of(paths)
    for row, each in enumerate(paths):
        if each.reasoning_tokens and each.answer_tokens:
            expected = score_sums(each)
        else:
            expected = (None, None, None)
        found = (table.score[row], table.self_consistency[row], table.validity[row])
        assert tuple(None if np.isnan(x) else x for x in found) == tuple(expected)
        assert table.task_ids[table.task[row]] == each.task_id and table.place[row] == row


def test_correlations_by_hand():
    # in task a the right path has the higher R*, in task b the lower one, in task c there is no wrong one
    paths = [
        path("a", 0, [0.8], [1.0]), path("a", 1, [0.2], [1.0], correct=False),
        path("b", 0, [0.3], [1.0]), path("b", 1, [0.5], [1.0], correct=False),
        path("b", 2, [0.3], [1.0], correct=False), path("b", 3, [], [1.0], correct=False),
        path("c", 0, [0.1], [1.0]),
    ]  # fmt: skip
    report = selection_report(paths)
    # pairs: a above; b below, b tied; sample 3 has no R*
    assert report["right_above_wrong"] == pytest.approx(1.5 / 3)
    score = np.array([0.3, -0.3, -1 / 15, 2 / 15, -1 / 15])
    right = np.array([0.5, -0.5, 2 / 3, -1 / 3, -1 / 3])
    expected = score @ right / np.sqrt((score @ score) * (right @ right))
    assert report["r_star_right_correlation"] == pytest.approx(expected)
    assert report["sets"]["wrong"]["r_star"]["mean"] == pytest.approx(1 / 3)
    assert selection_report([path()])["right_above_wrong"] is None


def test_the_extremes():
    paths = many()
    report = Report(Selector(PathTable.of(paths), 5))
    gaps = {}
    for task in {p.task_id for p in paths}:
        scores = [score_sums(p).score for p in paths if p.task_id == task and p.correct]
        gaps[task] = max(scores, default=0) - min(scores, default=0)
    widest = report.widest(4)
    assert [paths[pair.high].task_id for pair in widest] == sorted(gaps, key=lambda t: -gaps[t])[:4]
    for high, low in widest:
        assert paths[high].task_id == paths[low].task_id
        gap = score_sums(paths[high]).score - score_sums(paths[low]).score
        assert gap == pytest.approx(gaps[paths[high].task_id])
    chosen = sorted(score_sums(p).score for p in select_paths(paths))
    ends = [(score_sums(paths[high]).score, score_sums(paths[low]).score) for high, low in report.ends(3)]
    assert ends == list(zip(chosen[::-1][:3], chosen[:3], strict=True))
    nothing = Report(Selector(PathTable.of([])))
    assert nothing.widest(3) == nothing.ends(3) == []


def test_side_by_side():
    left, right = path(text="one two\x1b[2J\nthree"), path("u", 3, text="x " * 40)
    lines = side_by_side(left, right, 20).splitlines()
    assert lines[0] == "task t, sample 0     | task u, sample 3"
    assert lines[1] == "R* 0.2500 = 0.5000 x | R* 0.2500 = 0.5000 x"
    assert "\x1b" not in "".join(lines) and "one two.[2J" in lines[5]
    assert sum(line.rpartition("|")[2].count("x") for line in lines[5:]) == 40


def test_the_report_counts_tasks_without_a_choice():
    paths = [path("none", 0, correct=False), path("cut", 0, finish="length"), path("one", 0)]
    report = selection_report(paths)
    assert report["tasks_without_right_path"] == 1
    assert report["tasks_without_eligible_path"] == 2
    assert report["tasks_with_one_eligible_path"] == 1
    assert report["agreement"] == {"random": None, "shortest": None}
    assert report["r_star_length_correlation"] is None
    assert selection_report([])["tasks"] == 0
    line = [path("t", n, reasoning=[0.1 * n] * n) for n in range(1, 5)]
    assert selection_report(line)["r_star_length_correlation"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("A is right.", 0),
        ("Wait, let me check again. Hmm, wait: actually no.", 5),
        ("the waiter awaits; factually", 0),
        ("I am not entirely sure. On second thought, B. Alternatively", 3),
        ("hmmm let me double-check", 2),
    ],
)
def test_hesitation_markers(text, count):
    assert count_hesitations([text]).tolist() == [count]


MARKERS = [
    "wait",
    "Hmmm",
    "hold on",
    " second thought",
    "let me ",
    "re-check",
    "not",
    "so sure",
    " ",
    "actually",
    "a",
]


@example(["hold on second thought", "caf\u00e9wait", "\ud800 wait"])  # overlapping markers; edges are ASCII
@settings(deadline=None)  # the first case compiles the pattern, on a busy machine past any limit
@given(st.lists(st.lists(st.sampled_from(MARKERS), max_size=12).map("".join), max_size=3))
def test_hesitations_are_counted_as_the_pattern_says(texts):
    pattern = re.compile(HESITATION, re.IGNORECASE | re.ASCII)
    assert count_hesitations(texts).tolist() == [len(pattern.findall(text)) for text in texts]


def test_texts_are_counted_in_batches_in_order(monkeypatch):
    monkeypatch.setattr(hesitation, "_BATCH_CHARS", 20)
    texts = ["wait " * (n * n % 7) for n in range(100)]
    with HesitationCounter() as counter:
        for text in texts:
            counter.add(text)
        assert counter.counts().tolist() == [n * n % 7 for n in range(100)]
    with HesitationCounter() as counter:
        assert counter.counts().tolist() == []

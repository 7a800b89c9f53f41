# SPDX-License-Identifier: Apache-2.0
"""The report on a selection by R*: its figures, the extremes, two paths side by side."""

import json
import random

import numpy as np
import pytest
from rich.cells import cell_len
from rstar_paths import many, path

from reasongrm_nemo.rstar import (
    Report,
    score_sums,
    select_paths,
    selection_report,
    side_by_side,
)
from reasongrm_nemo.rstar.select import Selector
from reasongrm_nemo.rstar.table import PathTable


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


def test_a_table_scores_bitwise_as_path_by_path():
    rng = random.Random(3)
    sides = [path("x", n, [], [0.5]) for n in range(2)] + [path("y", 0, [0.5], [])]
    paths = [*many(), *sides, path("over", 0, [1.0] * 3, [1.0 + 5e-7])]
    rng.shuffle(paths)
    table = PathTable.of(paths)
    for row, one in enumerate(paths):
        if one.reasoning_tokens and one.answer_tokens:
            expected = score_sums(one)
        else:
            expected = (None, None, None)
        scored = (table.score[row], table.self_consistency[row], table.validity[row])
        assert tuple(None if np.isnan(x) else x for x in scored) == tuple(expected)
        assert table.task_ids[table.task[row]] == one.task_id and table.place[row] == row


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


def test_wide_characters_keep_two_paths_aligned_side_by_side():
    lines = side_by_side(path(text="漢" * 30), path("u", 3, text="y"), 20).splitlines()
    lefts = [line.partition(" |")[0] for line in lines]
    assert "".join(lefts).count("漢") == 30
    assert all(cell_len(left) <= 20 for left in lefts)
    assert lines[5].endswith(" | y") and cell_len(lines[5]) == 24


def test_the_report_counts_tasks_without_a_chosen_path():
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

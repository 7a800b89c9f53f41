# SPDX-License-Identifier: Apache-2.0
"""Labels of published data sets: spellings, ties, and ambiguous numbers."""

import pytest
from source_forms import TWICE, ab, arena, both_ways, helpsteer, lmsys, one_two, shown, write

from reasongrm_nemo.data import read_pairs
from reasongrm_nemo.errors import UserError

LABELS = [
    ("A", "B"), ("a", "b"), ("(A)", "(B)"), ("[[A]]", "[[B]]"), ("[[A>B]]", "[[B>A]]"), ("B<<A", "A<B"),
    ("Response A", "Response B"), ("assistant_a", "assistant_b"), ("Model A is slightly better.", "B wins"),
    ("response_a", "response_b"), ("first", "second"), ("x", "y"), ("1", "2"), ("0", "1"), (1.0, 2.0),
]  # fmt: skip


@pytest.mark.parametrize("labels", LABELS, ids=str)
def test_the_spellings_of_a_label(labels, tmp_path):
    rows = [row | {"model_a": "x", "model_b": "y"} for row in both_ways(ab, "preference", *labels)]
    loaded = read_pairs(write(tmp_path / "rows.jsonl", rows))
    assert shown(loaded.pairs) == TWICE
    assert not loaded.unread


def test_a_number_that_may_count_from_0_or_1_is_no_label(tmp_path):
    """Is `response 1` response_1, or the first of response_0 and response_1?"""
    row = {"prompt": "q", "response_0": "one", "response_1": "two"}
    rows = [{**row, "label": "response_1"}, {**row, "prompt": "r", "label": "response 1"}]
    loaded = read_pairs(write(tmp_path / "rows.jsonl", rows))
    assert [pair.chosen for pair in loaded.pairs] == ["two"] and loaded.drops == {"no_label": 1}


@pytest.mark.parametrize("form", [ab, one_two, arena])
@pytest.mark.parametrize("label", ["tie", "Tie", "tie (bothbad)", "both_bad", "[[C]]", "A=B"])
def test_a_tie_is_left_out(form, label, tmp_path):
    rows = [*both_ways(form, "winner", "A", "B"), {**form("Which sea is 3?", "one", "two"), "winner": label}]
    loaded = read_pairs(write(tmp_path / "rows.jsonl", rows))
    assert len(loaded.pairs) == 2 and loaded.drops == {"tie": 1}
    assert loaded.examples["tie"] == [f"{tmp_path}/rows.jsonl:3"]


def test_a_label_that_names_neither_answer_is_distinguished_from_a_tie(tmp_path):
    labels = [None, "", "yes", 3.5, True, "C++", {"a": 1}, ["A"]]
    rows = [{**ab(f"Which sea is {n}?", "one", "two"), "winner": label} for n, label in enumerate(labels)]
    loaded = read_pairs(write(tmp_path / "rows.jsonl", [*rows, *both_ways(ab, "winner", "A", "B")]))
    assert loaded.drops == {"no_label": len(labels)}


def test_numbers_that_publishers_use_for_ties(tmp_path):
    rows = both_ways(helpsteer, "overall_preference", -3, 1)
    rows += [{**helpsteer("Which sea is 3?", "one", "two"), "overall_preference": 0}]
    for votes in ([0, 0, 1], [0, 1, 2]):
        named = {f"annotator{n}": vote for n, vote in enumerate(votes, 1)}
        rows += [{**one_two(f"Which sea is {votes}?", "one", "two"), **named}]
    rows += [{**lmsys("q", "one", "two"), "winner_model_a": "0", "winner_model_b": "0", "winner_tie": "1"}]
    loaded = read_pairs(write(tmp_path / "rows.jsonl", rows))
    assert shown(loaded.pairs) == TWICE and loaded.drops == {"tie": 4}


@pytest.mark.parametrize(
    ("form", "labels"),
    [
        (one_two, [0, 1]),  # a tie and the first answer, or the first and the second?
        (ab, [1, 1]),  # the first answer, or the second?
        (ab, [0, 1, 2]),
        (ab, [-1, 1]),
        (one_two, ["0", "1"]),
    ],
)
def test_ambiguous_numbers_are_refused(form, labels, tmp_path):
    rows = [{**form(f"Which sea is {n}?", "one", "two"), "label": label} for n, label in enumerate(labels)]
    path = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=r"do not say which answer is better; .*columns: a_wins and b_wins"):
        read_pairs(path)
    values = sorted({*labels}, key=str)
    said = {"a_wins": values[-1], "b_wins": values[0] if len(values) > 1 else 9}
    kept = read_pairs(path, columns=said).pairs
    assert {pair.chosen for pair in kept} == ({"one", "two"} if len(values) > 1 else {"one"})


def test_a_late_number_counts_too(tmp_path):
    """Labels count from 1 if a 2 occurs, even after a thousand rows with 1 only."""
    rows = [{**ab(f"Which sea is {n}?", "one", "two"), "label": 1} for n in range(1200)]
    rows += [{**ab("Which sea is last?", "one", "two"), "label": 2}]
    loaded = read_pairs(write(tmp_path / "rows.jsonl", rows))
    assert [pair.chosen for pair in loaded.pairs] == ["one"] * 1200 + ["two"]
    (form,) = loaded.forms
    assert form == "prompt, response_a, response_b and label (1 for response_a, 2 for response_b)"

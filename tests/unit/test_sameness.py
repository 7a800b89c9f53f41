# SPDX-License-Identifier: Apache-2.0
"""One rule decides whether two texts are the same, wherever texts are compared."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongrm_nemo.data import read_pairs
from reasongrm_nemo.data.decontaminate import Decontaminator
from reasongrm_nemo.data.questions import read_questions
from reasongrm_nemo.data.sameness import same_key
from reasongrm_nemo.data.tasks import prompt_key

SAME = [
    ("Name a river.", " Name a river.\n"),
    ("Name a river.", "Name\ta  river."),
    ("Name a river.", "Name a\r\nriver."),
    ("Name a river.", "Name\n\n a\u00a0river.\u3000"),
    ("caf\u00e9", "cafe\u0301"),
    ("if a:\n    b()\n", "\nif a:\n\n    b()"),
    ("if a:\n    b()", "if a:\n\tb()"),
]
OTHER = [
    ("Name a river.", "name a river."),
    ("Name a river.", "Name a river"),
    ("if a:\n    b()\n    c()", "if a:\n    b()\nc()"),
    ("a b", "ab"),
    ("x\u00b2", "x2"),
]


def pair(prompt, chosen, rejected):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def drops(tmp_path, *rows):
    whole = [*rows, pair("one more", "a", "b")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in whole))
    return read_pairs(tmp_path / "rows.jsonl").drops


@pytest.mark.parametrize(("one", "two"), SAME)
def test_texts_that_are_the_same_are_so_everywhere(one, two, tmp_path):
    assert drops(tmp_path, pair("q", one, two)) == {"identical_answers": 1}
    assert drops(tmp_path, pair(one, "x", "y"), pair(two, "x", "y")) == {"duplicate": 1}
    assert drops(tmp_path, pair("q", one, "y"), pair("q", two, "y")) == {"duplicate": 1}
    assert drops(tmp_path, pair(one, "x", "y"), pair(two, "y", "x")) == {"contradiction": 2}
    turns = [[{"role": "user", "content": text}] for text in (one, two)]
    assert prompt_key(turns[0]) == prompt_key(turns[1])
    sides = [[*turn, {"role": "assistant", "content": name}] for turn, name in zip(turns, "xy", strict=True)]
    assert drops(tmp_path, {"chosen": sides[0], "rejected": sides[1]}) == {}
    benchmark = Decontaminator(50)
    benchmark.add("bench:1", [one])
    assert benchmark.match([two]) is not None
    rows = [
        {"question": one, "answer": "1"},
        {"question": two, "answer": "1"},
        {"question": two, "answer": "2"},
    ]
    for count, reason in ((2, "duplicate"), (3, "other_reference")):
        lines = [*rows[:count], {"question": "another?", "answer": "1"}]
        (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
        assert set(read_questions(tmp_path / "q.jsonl").drops) == {reason}


@pytest.mark.parametrize(("one", "two"), OTHER)
def test_texts_that_differ_in_more_are_different(one, two, tmp_path):
    assert drops(tmp_path, pair("q", one, two)) == {}
    assert drops(tmp_path, pair(one, "x", "y"), pair(two, "x", "y")) == {}
    assert drops(tmp_path, pair(one, "x", "y"), pair(two, "y", "x")) == {}


def test_prompts_without_words_are_compared_too():
    benchmark = Decontaminator(3)
    benchmark.add("bench:1", ["?! \u2192"])
    assert benchmark.match(["?!  \u2192\n"]) is not None
    assert benchmark.match(["?!"]) is None and benchmark.match([" "]) is None


@given(st.text(), st.sampled_from(" \t\r\n\u00a0"))
def test_a_key_is_a_fixed_point_and_surrounding_space_is_ignored(text, space):
    assert same_key(same_key(text)) == same_key(text) == same_key(space + text + space)

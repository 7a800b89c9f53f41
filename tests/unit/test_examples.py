# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

from reasongrm_nemo.data import make_tasks, read_pairs
from reasongrm_nemo.data.questions import make_answer_tasks, read_questions
from reasongrm_nemo.judge import load_template, sanitize

EXAMPLES = Path(__file__).parents[2] / "examples" / "preferences.jsonl"


def test_the_example_preferences_are_all_usable():
    loaded = read_pairs(EXAMPLES)
    assert not loaded.drops
    assert len(loaded.pairs) >= 36
    assert {pair.source for pair in loaded.pairs} == {"reasongrm_example"}
    assert sum(len(pair.prompt) > 1 for pair in loaded.pairs) >= 4
    tasks = list(make_tasks(loaded.pairs, 0, load_template("reasongrm_short")))
    assert len({task.id for task in tasks}) == len(loaded.pairs)
    # short enough for a small model's context, and nothing in them needs defusing
    assert max(len(task.messages[0]["content"]) for task in tasks) < 2500
    assert all(sanitize(text) == text for pair in loaded.pairs for text in (pair.chosen, pair.rejected))


def test_the_longer_example_is_not_simply_the_better_one():
    pairs = read_pairs(EXAMPLES).pairs
    longer = sum(len(pair.chosen) > len(pair.rejected) for pair in pairs)
    assert 0.25 < longer / len(pairs) < 0.75


def test_the_example_questions_are_all_usable():
    loaded = read_questions(EXAMPLES.with_name("questions.jsonl"))
    assert not loaded.drops and len(loaded.questions) == 8
    assert [question.reference for question in loaded.questions[:3]] == ["42", "15", r"\frac{3}{20}"]
    assert len({task.id for task in make_answer_tasks(loaded.questions, "")}) == 8

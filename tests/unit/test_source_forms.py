# SPDX-License-Identifier: Apache-2.0
"""The forms of published data sets: from a file of each form to the judge's tasks."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_forms import (
    FORMS,
    LONGER,
    TWICE,
    ab,
    assistant,
    both_ways,
    gpt,
    human,
    shown,
    system,
    user,
    write,
)

from reasongrm_nemo.data import JudgeTask, make_tasks, read_pairs
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge import load_template

TEMPLATE = load_template("reasongrm_short")


@pytest.mark.parametrize("name", FORMS)
def test_a_file_of_each_form_becomes_judge_tasks(name, tmp_path):
    rows, expected = FORMS[name]
    loaded = read_pairs(write(tmp_path / "rows.jsonl", rows))
    assert shown(loaded.pairs) == expected and not loaded.drops
    assert sum(loaded.forms.values()) == len(rows)
    tasks = list(make_tasks(loaded.pairs, 3, TEMPLATE, both_orders=True))
    assert len(tasks) == 2 * len(expected)
    for task in tasks:
        JudgeTask.from_dict(task.to_dict())
        text = task.messages[-1]["content"]
        assert (text.index("\ngood\n") < text.index("\nbad\n")) == (task.label == "A")
        assert "Which sea" in text and text.count("Be brief.") == ("system" in str(expected))


def test_fields_that_are_not_read_are_named(tmp_path):
    row = {
        "context": "A map.",
        "question": "Which sea?",
        "chosen": "a",
        "rejected": "b",
        "margin": 2,
        "id": "x",
    }
    assert read_pairs(write(tmp_path / "rows.jsonl", [row])).unread == {"context", "margin"}
    row = {"instruction": "Which sea?", "input": "A map.", "chosen": "a", "rejected": "b", "system": "s"}
    assert read_pairs(write(tmp_path / "rows.jsonl", [row])).unread == set()


def test_an_empty_cell_is_an_answer_without_text(tmp_path):
    rows = [
        {"prompt": f"q{n}", "chosen": "x", "rejected": cell}
        for n, cell in enumerate([float("nan"), None, ""])
    ]
    loaded = read_pairs(write(tmp_path / "rows.jsonl", [*rows, *FORMS["TRL, standard"][0]]))
    assert loaded.drops == {"empty_answer": 3}


def test_contradicting_labels_of_one_question_are_counted(tmp_path):
    rows = [
        {**ab("Which sea?", "one", "two"), "label": "A"},
        {**ab("Which  sea?\n", "one ", "two"), "label": "B"},
        {**ab("Which sea?", "two", "one"), "label": "A"},
        *both_ways(ab, "label", "A", "B"),
    ]
    loaded = read_pairs(write(tmp_path / "rows.jsonl", rows))
    assert shown(loaded.pairs) == TWICE and loaded.drops == {"contradiction": 3}


def test_forms_in_one_file_and_in_parquet(tmp_path):
    mixed = [row for name in ("TRL, explicit prompt", "TRL, implicit prompt") for row in FORMS[name][0]]
    loaded = read_pairs(write(tmp_path / "rows.jsonl", mixed))
    assert len(loaded.pairs) == 2
    assert loaded.forms == {"prompt, chosen and rejected": 1, "chosen and rejected": 1}
    pq.write_table(pa.Table.from_pylist(mixed), tmp_path / "rows.parquet")  # absent fields become nulls
    assert shown(read_pairs(tmp_path / "rows.parquet").pairs) == shown(loaded.pairs)


def test_a_prompt_beside_conversations_must_agree(tmp_path):
    whole = {"chosen": [*LONGER, assistant("good")], "rejected": [*LONGER, assistant("bad")]}
    rows = [
        {**whole, "prompt": [system("Be brief."), *LONGER]},
        {**whole, "prompt": [user("Another?"), *LONGER]},
    ]
    loaded = read_pairs(write(tmp_path / "rows.jsonl", rows))
    assert shown(loaded.pairs) == [([system("Be brief."), *LONGER], "good", "bad")]
    assert loaded.drops == {"other_prompt": 1}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"question": "q", "answer_a": "x", "answer_b": "y"},
            r"rows\.jsonl:1 has the fields question \(text\), answer_a \(text\), answer_b \(text\) and "
            r"is left out: the fields are of no known form; the nearest form is two answers and a label, "
            r"with the fields prompt, response_a, response_b, winner; the row lacks winner;",
        ),
        ({"prompt": "q", "chosen": "x", "rejcted": "y"}, r"lacks rejected \(is it rejcted\?\); rename them"),
        ({"conversations": [human("q")], "chosen": gpt("x")}, "the nearest form is ShareGPT"),
        ({"prompt": "q", "chosen": 3, "rejected": "y"}, "wrong type .an answer is neither text nor turns"),
        ({"chosen": "x", "rejected": "y"}, "there is no prompt beside the answers"),
        ({"text": "x", **{f"f{n}": n for n in range(20)}}, "and 9 more and is left out"),
        (
            {"q": "x", "A": "1", "B": "2"},
            "no form in docs/data.md is similar; map the fields in prepare.columns",
        ),
        ("text", "rows.jsonl:1 is left out: not an object"),
        (
            {"prompt": ["p", "q"], "chosen": ["x", "y"], "rejected": ["v", "w"]},
            "seems to hold columns; write one object per row",
        ),
        (
            {"prompt": {"0": "p"}, "chosen": {"0": "x"}, "rejected": {"0": "v"}},
            "seems to hold columns; write one object per row",
        ),
        ({"data": [{"prompt": "p", "chosen": "x"}]}, "in the field data; write only that list to the file"),
        ({"row": {"prompt": "p", "chosen": "x"}}, "in the field row; write only that object as the row"),
    ],
)
def test_a_refusal_shows_the_first_rows_fields_and_the_closest_form(row, says, tmp_path):
    with pytest.raises(UserError, match=says):
        read_pairs(write(tmp_path / "rows.jsonl", [row]))


@pytest.mark.parametrize(("good", "bad"), [("x", ["v", "w"]), (["x"], ["v", "w"])])
def test_one_answer_may_stand_beside_a_list_of_others(good, bad, tmp_path):
    row = {"prompt": "q", "chosen": good, "rejected": bad, "id": 7}
    loaded = read_pairs(write(tmp_path / "rows.jsonl", [row]))
    assert [(pair.chosen, pair.rejected) for pair in loaded.pairs] == [("x", "v"), ("x", "w")]

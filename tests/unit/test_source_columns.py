# SPDX-License-Identifier: Apache-2.0
"""`prepare.columns`: rows in none of the published forms."""

import json
import re

import pytest
from fake_pool import RECIPES

from reasongrm_nemo.data import read_pairs
from reasongrm_nemo.data.questions import read_questions
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.recipe.load import load_recipe

TURN = {"role": "user", "content": "Which sea?"}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def one(path, columns):
    (pair,) = read_pairs(path, columns=columns).pairs
    return pair


def test_fields_of_any_name_and_nested_fields(tmp_path):
    row = {"info": {"post": "Which sea?"}, "texts": [{"text": "bad"}, {"text": "good"}], "prompt": "not this"}
    columns = {"prompt": "info.post", "chosen": "texts.1.text", "rejected": "texts.0.text", "system": None}
    pair = one(write(tmp_path / "rows.jsonl", [row]), columns)
    assert (pair.prompt, pair.chosen, pair.rejected, pair.source) == ([TURN], "good", "bad", "rows")


def test_a_prompt_of_two_fields_a_system_prompt_and_names(tmp_path):
    row = {"text": "A map.", "ask": "Which sea?", "yes": "good", "no": "bad", "how": "Be brief.", "key": "k1"}
    columns = {"prompt": "text + ask", "chosen": "yes", "rejected": "no", "system": "how", "id": "key"}
    pair = one(write(tmp_path / "rows.jsonl", [row]), columns | {"source": "text"})
    assert pair.prompt == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "A map.\n\nWhich sea?"},
    ]
    assert (pair.id, pair.source) == ("k1", "A map.")


@pytest.mark.parametrize("wins", [("left", "right"), (-1, 1), (True, False)])
def test_values_that_mean_an_answer_is_preferred(wins, tmp_path):
    row = {"q": "Which sea?", "one": "good", "two": "bad", "pick": wins[0], "winner": "B", "response_a": "no"}
    columns = {"prompt": "q", "a": "one", "b": "two", "label": "pick", "a_wins": wins[0], "b_wins": wins[1]}
    other = {**row, "q": "Which sea is it?", "pick": wins[1]}
    pairs = read_pairs(write(tmp_path / "rows.jsonl", [row, other]), columns=columns).pairs
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("good", "bad"), ("bad", "good")]


def test_a_label_may_be_mapped_alone_where_the_answers_are_known(tmp_path):
    row = {"prompt": "Which sea?", "response_1": "bad", "response_2": "good", "label": "A", "human": 2}
    assert one(write(tmp_path / "rows.jsonl", [row]), {"label": "human"}).chosen == "good"


def test_a_missing_field_is_refused(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"question": "q", "x": "good", "y": "bad"}])
    columns = {"prompt": "qestion", "chosen": "x", "rejected": "y"}
    with pytest.raises(
        UserError, match=r"fields question .text., x .*no field 'qestion'; is it 'question'\?"
    ):
        read_pairs(path, columns=columns)
    with pytest.raises(UserError, match=r"prepare\.columns\.system is 'sys', but no row has that field"):
        read_pairs(path, columns={**columns, "prompt": "question", "system": "sys"})


def test_questions_may_be_mapped_too(tmp_path):
    path = write(
        tmp_path / "rows.jsonl", [{"task": "1 + 1?", "solution": "wrong", "gold": 2, "system": "Add."}]
    )
    (question,) = read_questions(path, columns={"prompt": "task", "reference": "gold"}).questions
    assert question.reference == "2"
    assert [turn["content"] for turn in question.prompt] == ["Add.", "1 + 1?"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["chosen=x"], "prepare.columns.rejected is missing beside prepare.columns.chosen"),
        (["b=x"], "prepare.columns.a is missing beside prepare.columns.b"),
        (["a_wins=1"], "prepare.columns.b_wins is missing"),
        (["a_wins=1", "b_wins=1"], "is the same as prepare.columns.a_wins"),
        (["a=x", "b=y", "chosen=x", "rejected=y"], "is given beside prepare.columns.chosen"),
        (["reference=x"], "prepare.kind pairs has no use for it"),
        (["promt=x"], 'unknown key "prepare.columns.promt" (did you mean "prepare.columns.prompt"?)'),
    ],
)
def test_a_recipe_with_half_a_mapping_is_refused(words, says):
    with pytest.raises(UserError, match=re.escape(says)):
        load_recipe(RECIPES / "0_prepare.yaml", [f"prepare.columns.{word}" for word in words])


LABELLED = {"prompt": "q", "a": "one", "b": "two", "label": "pick"}


@pytest.mark.parametrize(
    ("value", "wins", "says"),
    [
        (
            "eins",
            {},
            r"\(pick is 'eins'; name the values that prefer each answer in prepare\.columns: a",
        ),
        (True, {}, r"\(pick is True; name the values"),
        (None, {}, r"\(pick is None; name the values"),
        (True, {"a_wins": "x", "b_wins": "y"}, r"\(pick is True, neither 'x' .*a_wins\) nor 'y' \(b_wins\)"),
        (3, {"a_wins": 1, "b_wins": 2}, r"\(pick is 3, neither '1' "),
        ({"text": "A"}, {}, r"\(pick is \{'text': 'A'\}; name"),
    ],
)
def test_an_unknown_label_is_quoted_with_its_field_s_name(value, wins, says, tmp_path):
    row = {"q": "Which sea?", "one": "good", "two": "bad", "pick": value}
    with pytest.raises(UserError, match=says):
        read_pairs(write(tmp_path / "rows.jsonl", [row]), columns=LABELLED | wins)


def test_words_and_ties_under_a_mapped_label_are_read_as_elsewhere(tmp_path):
    said = ["model_b", "tie", "first"]
    rows = [{"q": f"Which sea {n}?", "one": "1st", "two": "2nd", "pick": w} for n, w in enumerate(said)]
    loaded = read_pairs(write(tmp_path / "rows.jsonl", rows), columns=LABELLED)
    assert [pair.chosen for pair in loaded.pairs] == ["2nd", "1st"]
    assert loaded.drops == {"tie": 1}

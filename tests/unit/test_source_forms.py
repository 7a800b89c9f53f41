# SPDX-License-Identifier: Apache-2.0
"""The forms that published data sets have: from a file of each to the judge's tasks."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reasongrm_nemo.data import JudgeTask, make_tasks, read_pairs
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge import load_template

TEMPLATE = load_template("reasongrm_short")


def user(text):
    return {"role": "user", "content": text}


def system(text):
    return {"role": "system", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def human(text):
    return {"from": "human", "value": text}


def gpt(text):
    return {"from": "gpt", "value": text}


ONE = [user("Which sea is 1?")]
LONGER = [user("Hi."), assistant("Hello."), *ONE]


def both_ways(row, label, good, bad):
    """The row, and with its answers swapped and the other label, in a copy of the question."""
    one, two = row("Which sea is 1?", "good", "bad"), row("Which sea is 2?", "bad", "good")
    return [{**one, label: good}, {**two, label: bad}]


def ab(question, a, b):
    return {"prompt": question, "response_a": a, "response_b": b}


def one_two(question, a, b):
    return {"instruction": question, "input": "", "response1": a, "response2": b}


def arena(question, a, b):
    return {
        "model_a": "x",
        "model_b": "y",
        "conversation_a": [user(question), assistant(a)],
        "conversation_b": [user(question), assistant(b)],
    }


def lmsys(question, a, b):
    texts = {"prompt": question, "response_a": a, "response_b": b}
    return {"id": 1, "model_a": "x", "model_b": "y"} | {k: json.dumps(["Hi.", t]) for k, t in texts.items()}


def helpsteer(question, a, b):
    return {"domain": "general", "context": [user(question)], "response1": a, "response2": b}


PLAIN = [(ONE, "good", "bad")]
TWICE = [(ONE, "good", "bad"), ([user("Which sea is 2?")], "good", "bad")]
HH = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Which sea is 1?\n\nAssistant:"
FORMS = {
    "TRL, explicit prompt": (
        [
            {
                "prompt": [system("Be brief."), *ONE],
                "chosen": [assistant("good")],
                "rejected": [assistant("bad")],
            }
        ],
        [([system("Be brief."), *ONE], "good", "bad")],
    ),
    "TRL, implicit prompt": (
        [{"chosen": [*LONGER, assistant("good")], "rejected": [*LONGER, assistant("bad")]}],
        [(LONGER, "good", "bad")],
    ),
    "TRL, standard": ([{"prompt": "Which sea is 1?", "chosen": "good", "rejected": "bad"}], PLAIN),
    "UltraFeedback": (
        [
            {
                "prompt": "Which sea is 1?",
                "prompt_id": "0",
                "chosen": [*ONE, assistant("good")],
                "rejected": [*ONE, assistant("bad")],
                "messages": [*ONE, assistant("good")],
                "score_chosen": 8.0,
            }
        ],
        PLAIN,
    ),
    "HH-RLHF": ([{"chosen": f"{HH} good", "rejected": f"{HH} bad"}], [(LONGER, "good", "bad")]),
    "HH-RLHF with a prompt": (
        [{"prompt": HH, "chosen": "good", "rejected": "bad"}],
        [(LONGER, "good", "bad")],
    ),
    "HH-RLHF from Windows": (
        [{"chosen": f"{HH} good".replace("\n", "\r\n"), "rejected": f"{HH} bad".replace("\n", "\r\n")}],
        [(LONGER, "good", "bad")],
    ),
    "messages that hold the answer too": (
        [{"messages": [*ONE, assistant("good")], "chosen": "good", "rejected": "bad"}],
        PLAIN,
    ),
    "Alpaca": (
        [{"instruction": "Which sea?", "input": "1", "chosen": "good", "rejected": "bad", "history": []}],
        [([user("Which sea?\n\n1")], "good", "bad")],
    ),
    "Alpaca with a history": (
        [
            {
                "instruction": "Which sea is 1?",
                "input": "",
                "chosen": "good",
                "rejected": "bad",
                "history": [["Hi.", "Hello."]],
            }
        ],
        [(LONGER, "good", "bad")],
    ),
    "ShareGPT": (
        [
            {
                "conversations": [human("Hi."), gpt("Hello."), human("Which sea is 1?")],
                "chosen": gpt("good"),
                "rejected": gpt("bad"),
                "system": "Be brief.",
            }
        ],
        [([system("Be brief."), *LONGER], "good", "bad")],
    ),
    "ShareGPT, whole": (
        [
            {
                "chosen": [human("Which sea is 1?"), gpt("good")],
                "rejected": [human("Which sea is 1?"), gpt("bad")],
            }
        ],
        PLAIN,
    ),
    "a label, A and B": (both_ways(ab, "label", "A", "B"), TWICE),
    "a label, models": (both_ways(ab, "winner", "model_a", "model_b"), TWICE),
    "a label, numbers from 0": (both_ways(ab, "label", 0, 1), TWICE),
    "a label, numbers from 1": (both_ways(ab, "preference", 1, 2), TWICE),
    "a label, compared": (both_ways(ab, "label", "A>B", "B>>A"), TWICE),
    "Chatbot Arena": (both_ways(arena, "winner", "model_a", "model_b"), TWICE),
    "Chatbot Arena, models": (both_ways(arena, "winner", "x", "y"), TWICE),
    "LMSYS": (
        [
            {**row, "winner_model_a": int(i == 0), "winner_model_b": int(i == 1), "winner_tie": 0}
            for i, row in enumerate(both_ways(lmsys, "id", 1, 2))
        ],
        [([user("Hi."), assistant("Hi."), user(f"Which sea is {n}?")], "good", "bad") for n in (1, 2)],
    ),
    "PandaLM": (
        [
            {**row, "annotator1": n, "annotator2": 3 - n, "annotator3": n, "input": float("nan")}
            for n, row in enumerate(both_ways(one_two, "idx", 0, 1), 1)
        ],
        TWICE,
    ),
    "HelpSteer3": (both_ways(helpsteer, "overall_preference", -1, 3), TWICE),
    "SHP": (
        [
            {"history": "Which sea is 1?", "human_ref_A": "good", "human_ref_B": "bad", "labels": 1},
            {"history": "Which sea is 2?", "human_ref_A": "bad", "human_ref_B": "good", "labels": 0},
        ],
        TWICE,
    ),
    "PKU-SafeRLHF": (
        [
            {"prompt": "Which sea is 1?", "response_0": "good", "response_1": "bad", "better_response_id": 0},
            {"prompt": "Which sea is 2?", "response_0": "bad", "response_1": "good", "better_response_id": 1},
        ],
        TWICE,
    ),
}  # fmt: skip


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def shown(pairs):
    return [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs]


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


def test_a_label_that_names_a_number_of_two_countings(tmp_path):
    """`response 1` of response_0 and response_1, or of the first and the second?"""
    row = {"prompt": "q", "response_0": "one", "response_1": "two"}
    rows = [{**row, "label": "response_1"}, {**row, "prompt": "r", "label": "response 1"}]
    loaded = read_pairs(write(tmp_path / "rows.jsonl", rows))
    assert [pair.chosen for pair in loaded.pairs] == ["two"] and loaded.drops == {"no_label": 1}


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


@pytest.mark.parametrize("form", [ab, one_two, arena])
@pytest.mark.parametrize("label", ["tie", "Tie", "tie (bothbad)", "both_bad", "[[C]]", "A=B"])
def test_a_tie_leaves_its_row_out(form, label, tmp_path):
    rows = [*both_ways(form, "winner", "A", "B"), {**form("Which sea is 3?", "one", "two"), "winner": label}]
    loaded = read_pairs(write(tmp_path / "rows.jsonl", rows))
    assert len(loaded.pairs) == 2 and loaded.drops == {"tie": 1}
    assert loaded.examples["tie"] == [f"{tmp_path}/rows.jsonl:3"]


def test_what_names_neither_answer_is_told_from_a_tie(tmp_path):
    labels = [None, "", "yes", 3.5, True, "C++", {"a": 1}, ["A"]]
    rows = [{**ab(f"Which sea is {n}?", "one", "two"), "winner": each} for n, each in enumerate(labels)]
    loaded = read_pairs(write(tmp_path / "rows.jsonl", [*rows, *both_ways(ab, "winner", "A", "B")]))
    assert loaded.drops == {"no_label": len(labels)}


def test_the_numbers_of_published_ties(tmp_path):
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
        (one_two, [0, 1]),  # a tie and the first, or the first and the second?
        (ab, [1, 1]),  # the first, or the second?
        (ab, [0, 1, 2]),
        (ab, [-1, 1]),
        (one_two, ["0", "1"]),
    ],
)
def test_numbers_that_can_be_read_in_two_ways_are_refused(form, labels, tmp_path):
    rows = [{**form(f"Which sea is {n}?", "one", "two"), "label": each} for n, each in enumerate(labels)]
    path = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=r"do not say which answer is better; .*columns: a_wins and b_wins"):
        read_pairs(path)
    values = sorted({*labels}, key=str)
    said = {"a_wins": values[-1], "b_wins": values[0] if len(values) > 1 else 9}
    kept = read_pairs(path, columns=said).pairs
    assert {pair.chosen for pair in kept} == ({"one", "two"} if len(values) > 1 else {"one"})


def test_a_late_number_counts_too(tmp_path):
    """1 and 2 from 1, although the first thousand rows say 1 alone."""
    rows = [{**ab(f"Which sea is {n}?", "one", "two"), "label": 1} for n in range(1200)]
    rows += [{**ab("Which sea is last?", "one", "two"), "label": 2}]
    loaded = read_pairs(write(tmp_path / "rows.jsonl", rows))
    assert [pair.chosen for pair in loaded.pairs] == ["one"] * 1200 + ["two"]
    (form,) = loaded.forms
    assert form == "prompt, response_a, response_b and label (1 for response_a, 2 for response_b)"


def test_an_empty_cell_is_an_answer_without_text(tmp_path):
    rows = [
        {"prompt": f"q{n}", "chosen": "x", "rejected": each}
        for n, each in enumerate([float("nan"), None, ""])
    ]
    loaded = read_pairs(write(tmp_path / "rows.jsonl", [*rows, *FORMS["TRL, standard"][0]]))
    assert loaded.drops == {"empty_answer": 3}


def test_opposite_labels_of_one_question_are_counted(tmp_path):
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
            r"with the fields prompt, response_a, response_b, winner, of which the row lacks winner;",
        ),
        ({"prompt": "q", "chosen": "x", "rejcted": "y"}, r"lacks rejected \(is it rejcted\?\); rename them"),
        ({"conversations": [human("q")], "chosen": gpt("x")}, "the nearest form is ShareGPT"),
        ({"prompt": "q", "chosen": 3, "rejected": "y"}, "wrong type .an answer is neither text nor turns"),
        ({"chosen": "x", "rejected": "y"}, "there is no prompt beside the answers"),
        ({"text": "x", **{f"f{n}": n for n in range(20)}}, "and 9 more and is left out"),
        (
            {"q": "x", "A": "1", "B": "2"},
            "no form of docs/data.md is near; say under prepare.columns which fields",
        ),
        ("text", "rows.jsonl:1 is left out: not an object"),
        (
            {"prompt": ["p", "q"], "chosen": ["x", "y"], "rejected": ["v", "w"]},
            "seems to hold columns; write one object a row",
        ),
        (
            {"prompt": {"0": "p"}, "chosen": {"0": "x"}, "rejected": {"0": "v"}},
            "seems to hold columns; write one object a row",
        ),
        ({"data": [{"prompt": "p", "chosen": "x"}]}, "in the field data; write that list alone to the file"),
        ({"row": {"prompt": "p", "chosen": "x"}}, "in the field row; write that object alone as the row"),
    ],
)
def test_a_refusal_shows_the_first_rows_fields_and_the_nearest_form(row, says, tmp_path):
    with pytest.raises(UserError, match=says):
        read_pairs(write(tmp_path / "rows.jsonl", [row]))


@pytest.mark.parametrize(("good", "bad"), [("x", ["v", "w"]), (["x"], ["v", "w"])])
def test_one_answer_may_stand_beside_a_list_of_others(good, bad, tmp_path):
    row = {"prompt": "q", "chosen": good, "rejected": bad, "id": 7}
    loaded = read_pairs(write(tmp_path / "rows.jsonl", [row]))
    assert [(pair.chosen, pair.rejected) for pair in loaded.pairs] == [("x", "v"), ("x", "w")]

# SPDX-License-Identifier: Apache-2.0
"""Open answers: reading them, comparing them with a reference, and questions with references from files."""

import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reasongrm_nemo.data.problems import DROP_REASONS, RowProblem
from reasongrm_nemo.data.questions import make_answer_tasks, question_from_row, read_questions
from reasongrm_nemo.data.records import AnswerTask, QuestionAnswer, ReasoningPath
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge import EQUIVALENCES, load_equivalence, read_answer
from reasongrm_nemo.judge.open_answers import exact, normalised, number, numeric


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"</think>\n so \boxed{42}", "42"),
        (r"\boxed{1}</think> \boxed{2} or rather \boxed{\frac{1}{3}}.", r"\frac{1}{3}"),
        (r"</think> \boxed{a{b}c} \boxed{never closed", "a{b}c"),
        ("</think>\n\nThe work.\nFinal answer: **7**\nHope it helps", "7"),
        ("</think>\n\nthe answer is Paris\n", "Paris"),
        ("</think>The answer is: **7**.", "7"),
        ("</think>Final answer: **7.**", "7"),
        ("</think>The final answer is: 3", "3"),
        ("</think> steps\n#### 1,234", "1,234"),
        ("x</think>\n\n 19 \n", "19"),
        ("x</think>first</think>second", "second"),
        ("x</think>two\nlines", None),
        ("x</think> \n", None),
        ("x</think>" + "9" * 2000, None),
        (r"x</think>\boxed{}", None),
    ],
)
def test_the_final_answer_of_a_response(text, answer):
    parsed = read_answer(text)
    assert parsed.answer == answer
    assert parsed.status == ("no_answer" if answer is None else "ok")


def test_a_box_in_the_reasoning_is_not_the_answer():
    assert read_answer(r"\boxed{42}").status == "no_think_close"
    assert (
        read_answer(r"\boxed{42}</think> I do not know, said it\nmany times".replace(r"\n", "\n")).answer
        is None
    )


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("42", "42.0", True), ("42", "43", False), ("1,234.5", "1234.5", True), ("12,34", "1234", False),
        ("$5$", "5", True), (r"\$5", "5", True), ("50%", "0.5", True), ("50", "50%", False),
        (r"\frac{3}{4}", "0.75", True), (r"\dfrac{1}{3}", "1/3", True), ("1/0", "1/0", True),
        ("1/0", "2", False), ("0.33333", "1/3", False), ("0.3333333", "1/3", True),
        (r"1.2\times10^{-3}", "0.0012", True), ("1.2e-3", "0.0012", True), ("1e400", "1e400", True),
        ("1e400", "2e400", False), ("\N{MINUS SIGN}3", "-3", True), ("0", "-0.0000000001", True),
        ("٤٢", "42", True), (r"\text{Paris}", "paris.", True), ("Paris", "London", False), ("x", "5", False),
        ("", "0", False), ("１２", "12", True),
        (r"10,\!000", "10000", True), ("10{,}000", "10000", True), (r"5\,000", "5000", True),
        (r"1{,}\!234{,}\!567.5", "1,234,567.5", True), (r"\$1,\!000\,000", "1000000", True),
        ("3{,}14", "314", False), (r"5\,00", "500", False), ("5 000", "5000", False),
        (r"\frac{3}{2}^2", "0.75", False),
        ("10²", "102", False), ("10²", "100", True), ("10₂", "102", False), ("-2^{2}", "-4", True),
        ("1.2×10⁻³", "0.0012", True), ("10⁻³", "10^{-3}", True), ("2^10", "1024", True), ("x²", "x2", False),
        ("1/2^3", "0.125", True), ("0^{-1}", "0", False), ("9999^9999", "9999^9999", True),
        ("9999^9999", "9999^9998", False), ("2^3^2", "64", False),
    ],
)  # fmt: skip
def test_numbers_are_compared_as_numbers(answer, reference, same):
    assert numeric(answer, reference) == same
    assert numeric(reference, answer) == same


def test_texts_are_normalised_before_they_are_compared():
    assert exact(" \\text{The  Cat}. ", '"the cat"')
    assert not exact("42", "42.0") and not exact("the cat", "a cat")
    assert normalised("a\\,b") == "a b"


@settings(max_examples=300, deadline=None)
@example("1e999999999", "9" * 999)
@example("\\boxed{" * 1000, "-")
@given(st.text(max_size=40), st.text(alphabet="0123456789.,/%eE+-\\frac{}^$* ", max_size=40))
def test_any_two_answers_can_be_compared(one, other):
    for name, check in EQUIVALENCES.items():
        assert check(one, one) and check(other, other), name
        assert check(one, other) == check(other, one), name
    value = number(other)
    assert value is None or math.isfinite(value)
    read_answer("</think>" + other + one)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.floats(-1e-5, 1e-5))
def test_the_tolerance_of_numbers(value, change):
    near = value * (1 + change)
    close = math.isclose(value, near, rel_tol=1e-6, abs_tol=1e-9)
    assert numeric(repr(near), repr(value)) == close


def test_a_users_own_equivalence():
    assert load_equivalence("numeric") is numeric
    assert load_equivalence("operator:eq")("a", "a")
    for name in ("numerical", "no_such_module:f", "operator:none", ":x"):
        with pytest.raises(UserError, match="check of open answers"):
            load_equivalence(name)


# -- questions -------------------------------------------------------------------------------------------


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_published_formats_of_questions(tmp_path):
    rows = [
        {"question": "How many?", "answer": "Half of 4 is 2.\nSo 2 + 70.\n#### 72"},  # GSM8K
        {"problem": "Solve.", "solution": r"We get $\boxed{\frac{1}{2}}$.", "level": "5"},  # MATH
        {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "answer": 7},
        {
            "id": "mine",
            "source": "own",
            "messages": [{"role": "user", "content": "x\x00"}],
            "reference": "y\x00",
        },
    ]
    loaded = read_questions(write(tmp_path / "math.jsonl", rows))
    assert [question.reference for question in loaded.questions] == [
        "72",
        r"\frac{1}{2}",
        "7",
        "y\N{REPLACEMENT CHARACTER}",
    ]
    assert [question.source for question in loaded.questions] == ["math", "math", "math", "own"]
    assert loaded.questions[3].id == "mine" and loaded.nul == 1 and not loaded.drops
    assert loaded.questions[3].prompt[0]["content"] == "x\N{REPLACEMENT CHARACTER}"


def test_references_that_are_not_finite_are_counted(tmp_path):
    path = tmp_path / "q.jsonl"
    odd = ("NaN", "Infinity", "-Infinity", "1e999")
    published = {"problem": "Add.", "solution": r"It is $\boxed{10,\!000}$."}  # as MATH has it
    rows = [*(f'{{"question": "{value}", "answer": {value}}}' for value in odd), json.dumps(published)]
    path.write_text("\n".join(rows))
    loaded = read_questions(path)
    assert loaded.drops == {"no_reference": 4}
    assert numeric(loaded.questions[0].reference, "10000")


def test_tasks_hold_the_question_as_data_and_the_instruction(tmp_path):
    question = QuestionAnswer("q", "s", [{"role": "user", "content": "1 <|im_end|> </think> [[A]] 2"}], "3")
    (task,) = make_answer_tasks([question], "Box it.")
    assert task.messages == [{"role": "user", "content": "1 < |im_end|> < /think> [ [A]] 2\n\nBox it."}]
    assert AnswerTask.from_dict(json.loads(json.dumps(task.to_dict()))) == task
    assert question.prompt[0]["content"].startswith("1 <|im")  # not changed in place
    with pytest.raises(UserError, match="'reference' must hold text"):
        AnswerTask.from_dict({**task.to_dict(), "reference": " "}, "f:1")


def test_rows_that_are_not_questions_are_counted(tmp_path):
    good = {"question": "q", "answer": "1"}
    rows = [
        good, good, 7, {"question": "q"}, {"question": 3, "answer": "1"}, {"question": " ", "answer": "1"},
        {"question": "x", "answer": "\ud800"}, {"question": "x" * 5000, "answer": "1"},
        {"question": "y", "answer": "two\nlines"},
        {"question": "z", "answer": "1"}, {"question": "z", "answer": "2"},
        {"messages": [{"role": "assistant", "content": "q"}], "answer": "1"}, {"messages": [], "answer": "1"},
        {"messages": [{"role": "root", "content": "q"}], "answer": "1"}, {"question": "t", "answer": True},
    ]  # fmt: skip
    loaded = read_questions(write(tmp_path / "q.jsonl", rows), max_chars=4000)
    assert len(loaded.questions) == 1 and loaded.read == 15
    assert loaded.drops == {
        "duplicate": 1, "wrong_type": 4, "empty_prompt": 3, "bad_text": 1, "huge_text": 1, "no_reference": 1,
        "other_reference": 2, "unknown_role": 1,
    }  # fmt: skip
    assert sum(loaded.drops.values()) + 1 == loaded.read
    with pytest.raises(
        UserError, match=r"none of the 1 rows is a question with a reference \(wrong_type 1\)"
    ):
        read_questions(write(tmp_path / "none.jsonl", [7]))


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
    max_leaves=6,
)
FIELDS = ["question", "problem", "prompt", "messages", "reference", "answer", "solution", "id", "source"]


@settings(max_examples=300, deadline=None)
@given(ANY | st.dictionaries(st.sampled_from(FIELDS), ANY, max_size=5))
def test_any_row_is_read_as_a_question_or_dropped(row):
    try:
        question = question_from_row(row, max_chars=4000)
    except RowProblem as problem:
        assert problem.reason in DROP_REASONS
        return
    json.dumps(question.to_dict(), ensure_ascii=False).encode("utf-8")
    QuestionAnswer.from_dict(question.to_dict())


def test_a_path_has_a_verdict_or_an_answer():
    path = ReasoningPath("t", 0, "x", 1, 1, 0.5, 0.5, None, "ok", True, "stop", "m", answer="42")
    assert ReasoningPath.from_dict(path.to_dict()) == path
    with pytest.raises(UserError, match="both a verdict and an open answer"):
        ReasoningPath.from_dict({**path.to_dict(), "verdict": "A"}, "f:1")
    with pytest.raises(UserError, match="correct without a verdict"):
        ReasoningPath.from_dict({**path.to_dict(), "answer": None}, "f:1")

# SPDX-License-Identifier: Apache-2.0
"""Policy `last`: the same parsing for models with and without think tags."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongrm_nemo.data.records import AnswerTask, JudgeTask
from reasongrm_nemo.judge import left_open, parse_verdict, read_answer
from reasongrm_nemo.rollout import Completion
from reasongrm_nemo.rollout.reading import CompletionReader

TASK = JudgeTask("t", "p", "s", [{"role": "user", "content": "?"}], "A", "chosen_first")


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        # tags
        ("<think>\n[[B]]? no\n</think>\n\n[[A]]", False, "A ok"),
        ("[[B]]? no\n</think>\n\n[[A]]", True, "A ok"),
        ("x</think>[[B]] hm</think>[[A]]", True, "A ok"),
        ("x</think>[[A]] or [[B]]", True, "- conflicting"),
        ("x</think>[[A]] or\n[[B]]", True, "- conflicting"),
        ("x</think>neither", True, "- no_verdict"),
        # reasoning that is never closed
        ("I lean to [[B]]", True, "- unfinished"),
        ("<think> I lean to [[B]]", False, "- unfinished"),
        ("x</think>[[A]] <think>or [[B]]", True, "- unfinished"),
        ("", True, "- unfinished"),
        # no tags at all
        ("[[A]]", False, "A ok"),
        ("The better answer is [[B]].", False, "B ok"),
        ("[[A]] is short, [[B]] is wrong.\n\n[[A]]\n", False, "A ok"),
        ("[[A]] is short.\nMy verdict: **[[B]]**  \n\n", False, "B ok"),
        ("[[A]] is better.\nI hope this helps!", False, "A ok"),
        ("[[A]] or [[B]]?\nI cannot say.", False, "- conflicting"),
        ("[[A]]\n[[A]] beats [[B]]", False, "- conflicting"),
        ("Neither.", False, "- no_verdict"),
        ("", False, "- no_verdict"),
    ],
)
def test_which_verdict_counts(text, opened, expected):
    verdict, status = expected.split()
    parsed = parse_verdict(text, "last", opened)
    assert (parsed.verdict or "-", parsed.status) == (verdict, status)


@given(st.text(alphabet="ab\n[]AB</think>"), st.booleans())
def test_a_truncated_response_has_no_verdict(text, opened):
    parsed = parse_verdict(text + "[[A]]", "last", opened, finished=False)
    assert parsed.verdict is None and parsed.status in ("unfinished", "cut_off")


@pytest.mark.parametrize(
    ("tail", "is_open"),
    [
        ("<|im_start|>assistant\n", False),
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<think>a</think>[[A]]\n<think>b", True),
    ],
)
def test_whether_a_prompt_leaves_the_reasoning_open(tail, is_open):
    assert left_open(tail) is is_open


def test_open_answers_are_read_by_the_same_rule():
    assert read_answer(r"so \boxed{4}", "last").answer == "4"
    assert read_answer(r"so \boxed{4}", "last", opened=True).status == "unfinished"
    assert read_answer(r"so \boxed{4}", "last", finished=False).status == "cut_off"
    assert read_answer(r"so \boxed{4}", "strict_last").status == "no_think_close"


class Letters:
    """A tokenizer of single characters; NUL ends the turn."""

    def decode(self, ids):
        return "".join(map(chr, ids))


def completion(text, finish="stop"):
    ids = [*map(ord, text), *([0] if finish == "stop" else [])]
    return Completion("t", 0, ids, [-0.5] * len(ids), finish)


def test_a_completion_is_parsed_once_with_everything_that_decides():
    reader = CompletionReader(Letters(), "last", opened=False)
    reading = reader.read(completion("[[B]]? no.\n[[A]]"), TASK)
    assert (reading.verdict, reading.correct, reading.status) == ("A", True, "ok")
    assert reading.text == "[[B]]? no.\n[[A]]" and reading.tokens[-1] != 0
    cut = reader.read(completion("[[B]]? no.\n[[A]]", "length"), TASK)
    assert (cut.verdict, cut.correct, cut.status) == (None, False, "cut_off")
    assert (
        CompletionReader(Letters(), "last", opened=True).read(completion("[[A]]"), TASK).status
        == "unfinished"
    )
    question = AnswerTask("q", "s", [{"role": "user", "content": "2+2?"}], "4")
    said = reader.read(completion(r"so \boxed{4}"), question)
    assert (said.answer, said.verdict, said.correct) == ("4", None, True)

# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongrm_nemo.data.jsonl import read_jsonl, write_jsonl
from reasongrm_nemo.data.records import (
    HardTask,
    JudgeTask,
    PreferencePair,
    ReasoningPath,
    SftExample,
    Verdict,
)
from reasongrm_nemo.errors import UserError

MESSAGES = [{"role": "user", "content": "Which is better?"}]
PAIR = PreferencePair("p1", "src", MESSAGES, "yes", "no")
TASK = JudgeTask("p1-c", "p1", "src", MESSAGES, "A", "chosen_first")
HARD = HardTask("p1-r", "p1", "src", MESSAGES, "B", "rejected_first", ["A", None, "B"], 1 / 3, "because")
PATH = ReasoningPath("p1-c", 0, "x</think>[[A]]", 3, 2, 2.5, 1.75, "A", "ok", True, "stop", "zero", [5, 6])
SFT = SftExample("p1-c", [*MESSAGES, {"role": "assistant", "content": "x"}], 0.5, 0.75, 2 / 3, "r_star")
VERDICT = Verdict("rm_bench", "chat", "i", "0-2", "chosen_first", None, False, False, "no_verdict", 7, "?")
SCORED = Verdict("rmb", "s", "i", None, "rejected_first", None, True, False, "score", 0, "", 1.5, -2.0)
ALL = [PAIR, TASK, HARD, PATH, SFT, VERDICT]


@pytest.mark.parametrize("record", ALL, ids=lambda record: type(record).__name__)
def test_records_survive_json(record):
    assert type(record).from_dict(json.loads(json.dumps(record.to_dict()))) == record


@pytest.mark.parametrize("record", ALL, ids=lambda record: type(record).__name__)
def test_each_missing_field_is_named(record):
    data = record.to_dict()
    for name in data:
        if name in ("token_ids", "rationale"):
            continue
        if isinstance(record, Verdict) and name not in ("benchmark", "subset", "item_id", "order"):
            continue  # derived from the other fields
        with pytest.raises(
            UserError, match=rf"^f\.jsonl:7: {type(record).__name__} lacks the field '{name}'"
        ):
            type(record).from_dict({k: v for k, v in data.items() if k != name}, "f.jsonl:7")


@pytest.mark.parametrize("record", ALL, ids=lambda record: type(record).__name__)
def test_an_unknown_field_and_a_wrong_type_are_named(record):
    data = record.to_dict()
    with pytest.raises(UserError, match="has no field 'extra'"):
        type(record).from_dict({**data, "extra": 1}, "f:1")
    for name in data:
        with pytest.raises(UserError, match=f"field '{name}'"):
            type(record).from_dict({**data, name: {"odd": []}}, "f:1")


@pytest.mark.parametrize("label", ["C", "a", "", None, 1, ["A"]])
def test_a_label_is_a_or_b(label):
    with pytest.raises(UserError, match="field 'label' must be 'A' or 'B'"):
        JudgeTask.from_dict({**TASK.to_dict(), "label": label}, "f:1")


@pytest.mark.parametrize(
    ("record", "change", "says"),
    [
        (TASK, {"label": "B"}, "label 'B' but the order 'chosen_first'"),
        (TASK, {"messages": []}, "must not be empty"),
        (TASK, {"messages": [{"role": "user"}]}, "message"),
        (TASK, {"messages": [{"role": "user", "content": "x", "name": "y"}]}, "message"),
        (PATH, {"sample": -1}, "negative"),
        (PATH, {"sample": True}, "integer"),
        (PATH, {"sample": 1.0}, "integer"),
        (PATH, {"answer_prob_sum": float("nan")}, "finite"),
        (PATH, {"answer_prob_sum": "1"}, "finite"),
        (PATH, {"answer_prob_sum": True}, "finite"),
        (PATH, {"answer_prob_sum": 10**400}, "finite"),
        (PATH, {"correct": 1}, "true or false"),
        (PATH, {"verdict": None}, "correct without a verdict"),
        (PATH, {"token_ids": [1, 2.5]}, "item 1 must be an integer, got 2.5"),
        (SFT, {"messages": MESSAGES}, "assistant"),
        (HARD, {"answers": []}, "must not be empty"),
        (HARD, {"answers": ["A", "C"]}, "item 1"),
        (VERDICT, {"chosen_score": 1.0}, "one of 'chosen_score' and 'rejected_score'"),
        (SCORED, {"verdict": "A"}, "scores and a verdict"),
        (SCORED, {"correct": False}, "1.5 and -2.0 but 'correct' False"),
        (SCORED, {"tie": True}, "1.5 and -2.0 but 'tie' True"),
        (SCORED, {"chosen_score": float("inf")}, "finite"),
        (SCORED, {"chosen_score": "1.5"}, "finite"),
    ],
)
def test_inconsistent_fields_are_refused(record, change, says):
    changed = {**record.to_dict(), **change}
    with pytest.raises(UserError, match=f"^f:1: .*{says}"):
        type(record).from_dict(changed, "f:1")
    with pytest.raises(UserError, match=f"^f:1: .*{says}"):  # the fast reader returns None or refuses alike
        line = json.dumps(changed).encode()
        assert type(record).from_json(line, "f:1") is None
        type(record).from_dict(json.loads(line), "f:1")


@pytest.mark.parametrize("record", [*ALL, SCORED], ids=lambda record: type(record).__name__)
def test_both_ways_of_reading_a_line_give_the_same_record(record):
    data = record.to_dict() | ({"answer_prob_sum": 2} if record is PATH else {})
    line = json.dumps(data).encode()
    assert type(record).from_json(line) == type(record).from_dict(json.loads(line))


@pytest.mark.parametrize("text", ["\ud800", "a\u2028b", "\x00", "\N{GRINNING FACE}"])
def test_an_odd_text_is_read_by_either_reader(tmp_path, text):
    pair = PreferencePair("p", "s", MESSAGES, text, "no")
    write_jsonl(tmp_path / "pairs.jsonl", [pair, PAIR])
    assert list(read_jsonl(tmp_path / "pairs.jsonl", PreferencePair)) == [pair, PAIR]


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_a_record_must_be_an_object(value):
    with pytest.raises(UserError, match="must be a JSON object"):
        PreferencePair.from_dict(value, "f:1")


def test_optional_fields_may_be_omitted_and_integers_pass_for_floats():
    data = {**PATH.to_dict(), "answer_prob_sum": 2}
    del data["token_ids"]
    path = ReasoningPath.from_dict(data)
    assert path.token_ids is None
    assert isinstance(path.answer_prob_sum, float)
    assert "token_ids" not in path.to_dict()


def test_a_scored_row_survives_and_needs_no_more_than_its_scores():
    assert Verdict.from_dict(json.loads(json.dumps(SCORED.to_dict()))) == SCORED
    short = {"benchmark": "rmb", "subset": "s", "item_id": "i", "cell": None}
    verdict = Verdict.from_dict({**short, "chosen_score": 2, "rejected_score": 2.0})
    assert (verdict.correct, verdict.tie, verdict.parse_status) == (False, True, "score")
    assert isinstance(verdict.chosen_score, float)
    with pytest.raises(UserError, match="lacks the field 'order'"):
        Verdict.from_dict(short)


def test_a_row_of_an_older_log_has_no_scores():
    assert Verdict.from_dict(VERDICT.to_dict()).chosen_score is None
    assert not {"chosen_score", "rejected_score"} & set(VERDICT.to_dict())


@given(st.text(), st.text(), st.lists(st.text(), min_size=1))
def test_any_text_survives(chosen, rejected, turns):
    pair = PreferencePair("i", "s", [{"role": "user", "content": turn} for turn in turns], chosen, rejected)
    assert PreferencePair.from_dict(json.loads(json.dumps(pair.to_dict()))) == pair

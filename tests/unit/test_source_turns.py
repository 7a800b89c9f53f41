# SPDX-License-Identifier: Apache-2.0
"""What turns hold besides text: tool calls, results, tools, system prompts and parts reach the judge."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongrm_nemo.data import make_tasks, read_pairs
from reasongrm_nemo.data.forms import plain_rows, prompt_of
from reasongrm_nemo.data.pairs import pair_from_row
from reasongrm_nemo.data.problems import DROP_REASONS, RowProblem
from reasongrm_nemo.data.questions import question_from_row
from reasongrm_nemo.judge import load_template

TEMPLATE = load_template("reasongrm")


def turn(role, content=None, **more):
    return {"role": role, "content": content, **more}


def call(name, arguments="{}", **more):
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


ASK = turn("user", "Weather in Oslo?")
LOOK = turn("assistant", "I will look.", tool_calls=[call("weather", '{"city": "Oslo"}', id="c1")])


def read(tmp_path, *rows):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_pairs(tmp_path / "rows.jsonl")


def prompts(pairs):
    return [task.messages[-1]["content"] for task in make_tasks(pairs, 0, TEMPLATE)]


def test_tool_calls_are_shown_and_distinguish_answers(tmp_path):
    """Two answers have the same text but call different tools."""
    rows = [
        {"chosen": [ASK, turn("assistant", text, tool_calls=[call("weather")])],
         "rejected": [ASK, turn("assistant", "One moment.", tool_calls=[call("clock")])]}
        for text in ("I will look.", "One moment.")
    ]  # fmt: skip
    loaded = read(tmp_path, *rows)
    assert not loaded.drops
    for text in prompts(loaded.pairs):
        assert "[tool call: weather()]" in text and "One moment.\n[tool call: clock()]" in text


def test_answers_with_the_same_calls_are_identical(tmp_path):
    """Ids and the formatting of arguments do not matter."""
    sides = [
        [turn("assistant", None, tool_calls=[call("weather", '{"city":"Oslo"}', id="call_1")])],
        [turn("assistant", "", tool_calls=[call("weather", {"city": "Oslo"}, id="call_2")])],
    ]
    other = [turn("assistant", None, tool_calls=[call("weather", {"city": "Rome"})])]
    loaded = read(
        tmp_path,
        {"prompt": [ASK], "chosen": sides[0], "rejected": sides[1]},
        {"prompt": [ASK], "chosen": sides[0], "rejected": other},
    )
    assert loaded.drops == {"identical_answers": 1}
    assert loaded.pairs[0].chosen == '[tool call: weather({"city": "Oslo"})]'


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        ({"tool_calls": [{"name": "f", "arguments": {"a": None}}]}, '[tool call: f({"a": null})]'),
        ({"tool_calls": [call("f", '{"a": ')]}, '[tool call: f({"a": )]'),  # broken, as the model wrote it
        ({"tool_calls": json.dumps([call("f"), call("g", '"ü"')])}, "[tool call: f()]\n[tool call: g(ü)]"),
        ({"function_call": {"name": "f", "arguments": "{}"}}, "[tool call: f()]"),
        (
            {"content": [{"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}}]},
            '[tool call: f({"a": 1})]',
        ),
        ({"tool_calls": [], "content": "x"}, "x"),
        ({"tool_calls": None, "content": "x"}, "x"),
        ({"refusal": "I will not."}, "I will not."),
    ],
)
def test_spellings_of_a_call(made, shown):
    row = {"prompt": [ASK], "chosen": [turn("assistant") | made], "rejected": [turn("assistant", "No.")]}
    assert pair_from_row(row).chosen == shown


@pytest.mark.parametrize("made", [[{"arguments": "{}"}], [call("")], [3], "f()", {"f": 1}, [call(None)]])
def test_a_call_that_cannot_be_shown_is_dropped_under_a_reason(made, tmp_path):
    good = {"prompt": [ASK], "chosen": [turn("assistant", "Yes.")], "rejected": [turn("assistant", "No.")]}
    bad = {**good, "chosen": [turn("assistant", "Yes!", tool_calls=made)]}
    loaded = read(tmp_path, good, bad)
    assert len(loaded.pairs) == 1 and loaded.drops == {"tool_call": 1}


def test_results_say_which_call_they_answer():
    asked = [
        ASK,
        turn(
            "assistant", None, tool_calls=[call("weather", '{"city": "Oslo"}', id="a"), call("clock", id="b")]
        ),
        turn("tool", "12:00", tool_call_id="b"),
        turn("tool", "Rain.", tool_call_id="a"),
        turn("tool", "Sun.", name="forecast"),
        turn("tool", "Bare."),
    ]
    row = {"prompt": asked, "chosen": "It rains.", "rejected": "It is sunny."}
    assert [message["content"] for message in pair_from_row(row).prompt] == [
        "Weather in Oslo?",
        '[tool call: weather({"city": "Oslo"})]\n[tool call: clock()]',
        "[result of clock()]\n12:00",
        '[result of weather({"city": "Oslo"})]\nRain.',
        "[result of forecast]\nSun.",
        "Bare.",
    ]


def test_an_answer_may_be_several_turns():
    """A call, its result and the final answer; the conversations fork where the assistant first differs."""
    result = turn("tool", "Rain.", tool_call_id="c1")
    chosen = [ASK, LOOK, result, turn("assistant", "It rains.")]
    later = pair_from_row(
        {"chosen": chosen, "rejected": [ASK, LOOK, result, turn("assistant", "It is dry.")]}
    )
    assert [message["role"] for message in later.prompt] == ["user", "assistant", "tool"]
    assert (later.chosen, later.rejected) == ("It rains.", "It is dry.")
    clock = turn("assistant", "Hm.", tool_calls=[call("clock")])
    first = pair_from_row(
        {"chosen": chosen, "rejected": [ASK, clock, turn("tool", "12:00"), turn("assistant", "Noon.")]}
    )
    assert first.prompt == [ASK]
    shown = 'weather({"city": "Oslo"})'
    assert first.chosen == f"I will look.\n[tool call: {shown}]\n\n[result of {shown}]\nRain.\n\nIt rains."
    assert first.rejected == "Hm.\n[tool call: clock()]\n\n[result]\n12:00\n\nNoon."
    dry = turn("tool", "Dry.", tool_call_id="c1")
    split = pair_from_row({"chosen": chosen, "rejected": [ASK, LOOK, dry, turn("assistant", "It is dry.")]})
    assert split.prompt == [ASK] and split.chosen == first.chosen


def test_a_question_after_the_fork_is_an_early_fork():
    chosen = [ASK, turn("assistant", "Rain."), turn("user", "And now?"), turn("assistant", "Rain.")]
    with pytest.raises(RowProblem) as caught:
        pair_from_row({"chosen": chosen, "rejected": [ASK, turn("assistant", "Dry."), *chosen[2:]]})
    assert caught.value.reason == "early_fork"


def test_a_row_s_system_prompt_and_tools(tmp_path):
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    row = {"chosen": [ASK, LOOK], "rejected": [ASK, turn("assistant", "Rain.")], "system": "Be brief."}
    with_tools = {**row, "chosen": [ASK, turn("assistant", "Sun.")], "tools": tools}
    again = {**row, "chosen": [turn("system", "Be brief. "), *row["chosen"]]}
    again["rejected"] = [turn("system", "Be brief. "), *row["rejected"]]
    empty = {**row, "system": None, "tools": "[]"}
    loaded = read(tmp_path, row, with_tools, again, empty)
    assert loaded.drops == {"duplicate": 1}  # the same system prompt is not shown twice
    first, second, third = loaded.pairs
    assert first.prompt == [turn("system", "Be brief."), ASK]
    assert second.prompt[0]["content"] == f"Be brief.\n\n[tools]\n{json.dumps(tools[0])}"
    assert third.prompt == [ASK]
    assert "<system>\nBe brief.\n</system>" in prompts(loaded.pairs)[0]


def test_questions_are_shown_with_their_system_prompt():
    question = question_from_row({"question": "1 + 1?", "answer": "2", "system_prompt": "Add."})
    assert question.prompt == [turn("system", "Add."), turn("user", "1 + 1?")]


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ([{"type": "text", "text": "Weather"}, {"type": "text", "text": "in Oslo?"}], "Weather\nin Oslo?"),
        ([{"type": "text", "text": "Weather?", "image": None}], "Weather?"),
        (["Weather?"], "Weather?"),
        ([{"type": "input_text", "text": "Weather?"}, {"type": "thinking", "thinking": "Hm."}], "Weather?"),
        (
            [{"type": "tool_result", "tool_use_id": "x", "content": [{"type": "text", "text": "1"}]}],
            "[result of x]\n1",
        ),
    ],
)
def test_contents_made_of_parts(content, shown):
    row = {"prompt": [turn("user", content)], "chosen": "a", "rejected": "b"}
    assert pair_from_row(row).prompt == [turn("user", shown)]


@pytest.mark.parametrize(
    "more",
    [
        {"prompt": [turn("user", [{"type": "text", "text": "What?"}, {"type": "image", "image": "x"}])]},
        {"prompt": [turn("user", [{"type": "input_audio", "input_audio": {}}])]},
        {"prompt": "What is it?", "images": ["x.png"]},
    ],
)  # fmt: skip
def test_a_row_with_anything_but_text_is_left_out(more, tmp_path):
    good = {"prompt": "What is it?", "chosen": "a", "rejected": "b", "images": []}
    loaded = read(tmp_path, good, good | more)
    assert len(loaded.pairs) == 1 and loaded.drops == {"not_text": 1}


def test_sharegpt_calls_and_names():
    conversation = [
        {"from": "human", "value": "Weather?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
        {"from": "observation", "value": "Rain."},
    ]
    row = {
        "prompt": conversation,
        "chosen": {"from": "gpt", "value": "Rain."},
        "rejected": {"from": "gpt", "value": "-"},
    }
    assert [(message["role"], message["content"]) for message in pair_from_row(row).prompt] == [
        ("user", "Weather?"),
        ("assistant", '[tool call: weather({"city": "Oslo"})]'),
        ("tool", "Rain."),
    ]
    row = {
        "prompt": [turn("user", "Hi.", name="Ann"), turn("USER", "Oh?", name="Bo")],
        "chosen": "a",
        "rejected": "b",
    }
    assert [message["content"] for message in pair_from_row(row).prompt] == ["[Ann]\nHi.", "[Bo]\nOh?"]


NAMES = [
    "role",
    "content",
    "from",
    "value",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "id",
    "type",
    "text",
]
TEXTS = st.sampled_from(["user", "assistant", "tool", "function_call", "\n\nHuman: a\n\nAssistant: b", "{"])
VALUES = st.recursive(
    st.none() | st.integers() | st.floats() | TEXTS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=12,
)
FIELDS = [
    "prompt",
    "chosen",
    "rejected",
    "response_a",
    "response_b",
    "label",
    "winner",
    "system",
    "tools",
    "history",
    "instruction",
    "input",
    "conversations",
    "images",
    "annotator1",
    "annotator2",
    "conversation_input",
    "id",
]


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=2))
def test_no_row_crashes_prepare(row):
    """Any row either gives a pair that can be written, or is dropped under a reason."""
    prompt_of(row)
    try:
        pairs = [pair_from_row(plain) for plain in plain_rows(row)]
    except RowProblem as problem:
        assert problem.reason in DROP_REASONS
        return
    for pair in pairs:
        type(pair).from_dict(json.loads(json.dumps(pair.to_dict())))
        assert list(make_tasks([pair], 0, TEMPLATE))


def test_a_prompt_may_be_a_single_turn():
    row = {"prompt": ASK, "chosen": turn("assistant", "Rain."), "rejected": turn("assistant", "Dry.")}
    assert pair_from_row(row).prompt == [ASK]

# SPDX-License-Identifier: Apache-2.0
"""Stage prepare on the same pairs in every form: the tasks are the same, byte for byte."""

import pytest
from preference_forms import EVERY_FORM, write_form

from reasongrm_nemo.data import read_tasks
from reasongrm_nemo.stages import prepare

ALIKE = [form for form in EVERY_FORM if form != "tool_calls"]


@pytest.fixture
def prepared(context, tmp_path):
    def run(form):
        words = write_form(form, tmp_path / form, 30)
        ctx = context("0_prepare", *words, "prepare.validation_fraction=0", work=f"{form}_work")
        counts = prepare.run(ctx)
        assert counts["tasks"] + sum(ctx.drops.values()) == 30
        return ctx.work / "tasks.jsonl"

    return run


@pytest.mark.parametrize("form", ALIKE)
def test_every_form_gives_the_same_tasks(form, prepared):
    assert prepared(form).read_bytes() == prepared("skywork").read_bytes()


def test_tool_calls_and_the_system_prompt_are_in_the_tasks(prepared):
    for task in read_tasks(prepared("tool_calls")):
        text = task.messages[-1]["content"]
        assert "be sure" in text and text.count("[tool call: ") == 2

# SPDX-License-Identifier: Apache-2.0
"""All seven stages on a file whose form differs from the paper's.

The other forms give the same tasks, byte for byte (tests/unit/test_stage_prepare_forms.py);
`python tests/preference_forms.py FOLDER` runs the stages on each of them.
"""

import json

import pytest
from preference_forms import result_of, run_stages

from reasongrm_nemo.data import SftExample, read_jsonl

pytestmark = pytest.mark.timeout(1500)


def test_answers_that_call_tools_pass_through_all_stages(tmp_path, rollout_python):
    runs = run_stages("tool_calls", tmp_path)
    assert result_of(runs, "0_prepare") == {"tasks": 110, "validation": 10}
    assert json.loads((runs / "0_prepare" / "forms.json").read_text()) == {"prompt, chosen and rejected": 120}
    for stage in ("1_grpo_zero", "6_grpo_hard"):
        assert result_of(runs, stage)["kept"] > 0
    examples = list(read_jsonl(runs / "3_filter" / "examples.jsonl", SftExample))
    assert examples
    for example in examples:
        assert example.messages[0]["content"].count("[tool call: ") == 2
    assert result_of(runs, "4_sft")["examples"] == len(examples)
    models = {row["model"] for row in json.loads((runs / "7_evaluate" / "scores.json").read_text())["scores"]}
    assert models == {"base", "zero", "sft", "final"}

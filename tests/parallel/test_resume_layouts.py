# SPDX-License-Identifier: Apache-2.0
"""A run resumes from its checkpoint at another TP, PP or DP as if it had not been interrupted.

fp32. Loss and gradient norm of the next steps against the uninterrupted run's: 1e-5 relative, for another
order of summation; they depend on weights, Adam's moments, the schedule and the order of the tasks.
"""

import json
import shutil

import pytest
from small_models import layout

WORKER = "tests/parallel/resume_worker.py"
RUN = [
    "grpo.steps=5",
    "grpo.save_every=3",
    "grpo.keep_checkpoints=9",
    "grpo.prompts_per_step=4",
    "grpo.samples_per_prompt=4",
    "grpo.optimizer_steps=2",
    "grpo.kl_coefficient=0.1",
    "grpo.optim.schedule=cosine",
    "grpo.optim.lr=1e-3",
]


def lines(work):
    return [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("before", "after"),
    [((2, 2, 1), (2, 1, 2)), ((2, 1, 1), (1, 1, 1))],
    ids=["tp2-to-pp2", "dp2-to-dp1"],
)
def test_grpo_resumes_at_another_layout(before, after, launch, tmp_path):
    unbroken, resumed = tmp_path / "unbroken", tmp_path / "resumed"
    for folder in (unbroken, resumed):
        folder.mkdir()
    launch(WORKER, before[0], unbroken, *RUN, *layout(*before))
    shutil.copytree(unbroken / "checkpoints" / "step_000003", resumed / "checkpoints" / "step_000003")
    shutil.copy(unbroken / "metrics.jsonl", resumed / "metrics.jsonl")
    launch(WORKER, after[0], resumed, *RUN, *layout(*after))

    expected, actual = lines(unbroken), lines(resumed)
    assert [line["step"] for line in actual] == [1, 2, 3, 4, 5]
    assert actual[:3] == expected[:3]
    for want, got in zip(expected[3:], actual[3:], strict=True):
        for name in ("loss", "grad_norm", "lr"):
            assert abs(got[name] - want[name]) <= 1e-5 * abs(want[name]), name
    # every step has a different loss, so a run that lost its place would be noticed
    assert len({round(line["loss"], 4) for line in expected}) == 5

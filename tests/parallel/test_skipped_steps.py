# SPDX-License-Identifier: Apache-2.0
"""A NaN loss on one of two data-parallel ranks: both skip the step; three in a row end the run."""

import json

import pytest

WORKER = "tests/parallel/resume_worker.py"
RUN = [
    "cluster.devices_per_node=2",
    "cluster.threads_per_rank=1",
    "grpo.steps=7",
    "grpo.prompts_per_step=4",
    "grpo.samples_per_prompt=4",
    # only through this do the sampling engine's log-probs enter the loss
    "grpo.importance.correction=truncated",
]


def lines(work):
    return [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]


def test_a_skipped_step_is_counted_and_harmless(launch, tmp_path):
    launch(WORKER, 2, tmp_path, *RUN, NAN_STEPS="1 2 4")
    steps = lines(tmp_path)
    assert all({"entropy", "packed", "forward_backward_s", "optimizer_s"} <= line.keys() for line in steps)
    assert [line["skipped"] for line in steps] == [0, 1, 2, 0, 1, 0, 0]
    assert [line["loss"] is None for line in steps] == [False, True, True, False, True, False, False]
    assert all(line["grad_norm"] is not None for line in steps if line["loss"] is not None)


def test_three_in_a_row_end_the_run_with_a_checkpoint(launch, tmp_path):
    with pytest.raises(AssertionError, match="not finite 3 times in a row"):
        launch(WORKER, 2, tmp_path, *RUN, NAN_STEPS="1 2 3")
    assert [line["skipped"] for line in lines(tmp_path)] == [0, 1, 2, 3]
    assert (tmp_path / "checkpoints" / "step_000004").is_dir()

# SPDX-License-Identifier: Apache-2.0
"""Which of several failed ranks the error names as the cause."""

import json

import pytest

from reasongrm_nemo.run.trainer_ranks import _cause

PEER = (0, 5.0, False, "RuntimeError: Connection closed by peer")
MEMORY = "(was killed by SIGKILL, probably out of memory)"
TWO = "rank 2-3 on n1:"
PEER_SAID = "srun: error: node3: task 0: Exited with exit code 1\n"
SILENT = "srun: error: node4: task 1: Exited with exit code 7\n" + PEER_SAID
SPOKE = "srun: error: node3: tasks 0-1: Exited with exit code 1\nsrun: error: node4: task 2: Killed\n"


@pytest.mark.parametrize(
    ("rows", "words", "says"),
    [
        ([PEER], SILENT, "rank 1 on node4: Exited with exit code 7"),
        ([PEER, (1, 6.0, False, "ValueError: x")], SILENT, "rank 1: ValueError: x"),
        ([(1, 4.0, False, "ValueError: x"), (2, 3.0, False, "lost")], SPOKE, "rank 1: ValueError: x"),
        ([PEER, (3, 9.0, True, "the disk is full")], SILENT, "rank 3: the disk is full"),
        ([], "srun: error: node4: task 1: Killed\n", "rank 1 on node4: Killed"),
        ([PEER, (1, 6.0, False, "later")], "", "rank 0: RuntimeError: Connection closed by peer"),
        ([], "", "the trainer ended with status 9"),
        ([PEER], "srun: error: n1: task 1: Killed\n", f"rank 1 on n1: Killed {MEMORY}"),
        (
            [],
            "srun: error: n1: tasks 2-3: Exited with exit code 137\n",
            f"{TWO} Exited with exit code 137 {MEMORY}",
        ),
        ([], "srun: error: n1: tasks 2-3: Out Of Memory\n", f"{TWO} Out Of Memory {MEMORY}"),
        (
            [],
            "srun: error: n1: tasks 2-3: Segmentation fault (core dumped)\n",
            f"{TWO} Segmentation fault (core",
        ),
        (
            [],
            "srun: error: n1: tasks 2-3: Bus error\n",
            f"{TWO} Bus error (was killed by SIGBUS, probably as /dev",
        ),
        (
            [],
            "srun: error: n1: tasks 2-3: Exited with exit code 143\n",
            f"{TWO} Exited with exit code 143 (was",
        ),
        (
            [],
            "srun: error: n1: tasks 2-3: Exited with exit code 1\n",
            f"{TWO} Exited with exit code 1 (full output",
        ),
    ],
)
def test_the_rank_that_caused_the_failure_is_named(tmp_path, rows, words, says):
    failures, log = tmp_path / "failures.jsonl", tmp_path / "trainer.log"
    fields = ("rank", "time", "user", "error")
    lines = [json.dumps(dict(zip(fields, row, strict=True))) for row in rows]
    failures.write_text("\n".join([*lines, '{"torn']))
    before = "srun: error: node9: task 9: Exited with exit code 9\n"  # of an earlier start
    log.write_text(before + words)
    assert _cause(failures, log, len(before), 9).startswith(says)

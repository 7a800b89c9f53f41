# SPDX-License-Identifier: Apache-2.0
"""Rollouts may take any time: torch's timeout of half an hour for a collective does not end the run."""

from pathlib import Path

WORKER = str(Path(__file__).parent / "source_worker.py")


def test_ranks_wait_for_rollouts_longer_than_a_collective_may_take(launch, tmp_path):
    launch(WORKER, 2, tmp_path)

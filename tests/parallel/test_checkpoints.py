# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of two tensor-parallel ranks: written in the background, kept by score, and a full disk."""

import json
import re
import subprocess
from pathlib import Path

import pytest

WORKER = str(Path(__file__).parent / "checkpoint_worker.py")


@pytest.fixture(scope="module", params=[0, 1])
def figures(request, ranks):
    return json.loads((ranks / f"rank{request.param}.json").read_text())


@pytest.fixture(scope="module")
def ranks(launch, tmp_path_factory):
    folder, small = tmp_path_factory.mktemp("checkpoints"), tmp_path_factory.mktemp("small")
    # needs root, as tests/slurm does
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", small], check=True)
    try:
        launch(WORKER, 2, folder, small)
    finally:
        subprocess.run(["umount", "-l", small], check=True)
    return folder


def test_changes_during_a_save_are_not_in_the_checkpoint(figures):
    assert figures["before it is whole"]
    assert figures["asynchronous"] == [1, 1.0]
    assert figures["polled"] == [2, 2.0]


def test_the_newest_and_the_best_are_kept(figures):
    assert figures["kept"] == ["step_000002", "step_000004", "step_000006"]
    assert figures["best"] == "step_000004"
    assert figures["best weights"] == 4.0
    assert figures["latest"] == [6, 6.0]


def test_a_full_disk_is_reported_on_every_rank_and_older_checkpoints_stay(figures):
    assert "step 7" in figures["failed"]
    assert "no space left on the disk of" in figures["failed"]
    assert "step_000006 is kept" in figures["failed"]
    assert figures["after the failure"] == [6, 6.0]
    assert figures["left behind"] == []


def test_a_first_checkpoint_that_fills_the_disk_is_reported_before_its_removal(figures):
    said = figures["small"]
    assert said.startswith("the checkpoint of step 1 could not be written to ")
    assert re.search(
        r"no space left on the disk of \S+/checkpoints \(\d\.\d MiB needed, [\d.]+ K?i?B free\)", said
    )
    assert said.endswith("the same command starts over, reusing the saved rollouts")
    assert figures["left on the small disk"] == []

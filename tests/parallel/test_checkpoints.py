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
    # as in tests/slurm, root is needed
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", small], check=True)
    try:
        launch(WORKER, 2, folder, small)
    finally:
        subprocess.run(["umount", "-l", small], check=True)
    return folder


def test_what_changes_while_it_is_written_is_not_in_it(figures):
    assert figures["before it is whole"]
    assert figures["asynchronous"] == [1, 1.0]
    assert figures["polled"] == [2, 2.0]


def test_the_newest_and_the_best_are_kept(figures):
    assert figures["kept"] == ["step_000002", "step_000004", "step_000006"]
    assert figures["best"] == "step_000004"
    assert figures["best weights"] == 4.0
    assert figures["latest"] == [6, 6.0]


def test_a_full_disk_is_said_on_every_rank_and_costs_nothing_older(figures):
    assert "step 7" in figures["failed"]
    assert "no space left on the disk of" in figures["failed"]
    assert "step_000006 is kept" in figures["failed"]
    assert figures["after the failure"] == [6, 6.0]
    assert figures["left behind"] == []


def test_the_first_checkpoint_on_a_small_disk_says_so_before_it_is_removed(figures):
    said = figures["small"]
    assert said.startswith("the checkpoint of step 1 could not be written to ")
    assert re.search(
        r"no space left on the disk of \S+/checkpoints \(\d\.\d MiB needed, [\d.]+ K?i?B free\)", said
    )
    assert said.endswith("the same command starts over, reusing the saved rollouts")
    assert figures["left on the small disk"] == []

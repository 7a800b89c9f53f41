# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of two tensor-parallel ranks: written in the background, kept by score, and a full disk."""

import json
from pathlib import Path

import pytest

WORKER = str(Path(__file__).parent / "checkpoint_worker.py")


@pytest.fixture(scope="module", params=[0, 1])
def figures(request, ranks):
    return json.loads((ranks / f"rank{request.param}.json").read_text())


@pytest.fixture(scope="module")
def ranks(launch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    launch(WORKER, 2, folder)
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
    assert "No space left" in figures["failed"]
    assert "step_000006 is kept" in figures["failed"]
    assert figures["after the failure"] == [6, 6.0]
    assert figures["left behind"] == []

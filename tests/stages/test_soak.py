# SPDX-License-Identifier: Apache-2.0
"""`make soak` with six steps and one kill, run to its end; and its slopes on figures that are known."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from soak.slopes import judged, slope

ROOT = Path(__file__).resolve().parents[2]


def noisy(per_1000, start, stop, level, deviation=1):
    draw = random.Random(level)
    steps = range(start, stop, 5)
    return [(step, level + per_1000 * step / 1000 + draw.gauss(0, deviation)) for step in steps]


@pytest.mark.parametrize(("per_1000", "verdict"), [(0, "flat"), (300, "leak"), (-200, "flat")])
def test_a_slope_is_fitted_to_all_lives_whatever_their_initial_values(per_1000, verdict):
    lives = [noisy(per_1000, n * 100 + 30, n * 100 + 100, 500 + 37 * n % 90) for n in range(10)]
    best, half = slope(lives)
    assert abs(best - per_1000) < half < 15
    assert judged(("engine", "uss"), lives)["verdict"] == verdict


@pytest.mark.parametrize(("per_1000", "verdict"), [(0, "jumps"), (150, "leak")])
def test_memory_allocated_and_freed_in_jumps_hides_no_leak(per_1000, verdict):
    steady = noisy(per_1000, 75, 1100, 400, deviation=0.1)
    taken = [40 * (300 < step < 620) + 25 * (step > 800) for step in range(75, 1100, 5)]
    life = [(step, value + more) for (step, value), more in zip(steady, taken, strict=True)]
    assert judged(("engine", "uss"), [life])["verdict"] == verdict


def test_a_count_that_grows_by_one_per_kill_is_a_leak_and_a_constant_one_is_not():
    grows, stays = (
        [(step, 7 + step // 100) for step in range(0, 1000, 5)],
        [(s, 7) for s in range(0, 1000, 5)],
    )
    assert judged(("run", "temporary files"), [grows])["verdict"] == "leak"
    assert judged(("run", "temporary files"), [stays])["slope"] == 0
    assert judged(("run", "temporary files"), [stays])["verdict"] == "flat"
    assert judged(("run", "run folder files"), [grows])["verdict"] == "grows by design"


@pytest.mark.timeout(900)
def test_the_command_runs_to_its_end_and_finds_nothing_left(tmp_path, rollout_python):
    words = ["--work", tmp_path, "--steps", 6, "--kill-every", 3, "--sample-every", 1, "--warm-up", 0]
    done = subprocess.run(
        [sys.executable, "-m", "soak", *map(str, words), "--json"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
    )
    summary = json.loads(done.stdout)
    assert (summary["kills"], summary["steps"]) == (1, 6), done.stderr[-3000:]
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    samples = [row for row in rows if "roles" in row]
    assert {"command", "rank", "server", "engine"} <= samples[0]["roles"].keys()
    assert len({row["roles"]["engine"]["life"] for row in samples}) == 2
    # as many temporary files and semaphores with the second server as with the first
    first, last = samples[0]["files"], samples[-1]["files"]
    assert last["temporary files"] <= first["temporary files"]
    assert last["/dev/shm files"] <= first["/dev/shm files"]
    # the same command again only prints the report
    again = subprocess.run(
        [sys.executable, "-m", "soak", *map(str, words), "--report"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
    )
    assert "| engine | uss MiB |" in again.stdout

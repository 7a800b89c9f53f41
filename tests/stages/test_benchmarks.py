# SPDX-License-Identifier: Apache-2.0
"""The tiny judge on small benchmarks in the three published forms, by one command, with vLLM."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from benchmark_files import WRITERS

from reasongrm_nemo.data import Verdict, read_jsonl
from reasongrm_nemo.evaluation import rm_bench
from reasongrm_nemo.evaluation.benchmarks import score_log

ROOT = Path(__file__).resolve().parents[2]


def reasongrm(*words):
    command = [sys.executable, "-m", "reasongrm_nemo", *map(str, words)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def artefact(tmp_path_factory, rollout_python):
    folder = tmp_path_factory.mktemp("benchmarks")
    inputs = [f"inputs.{name}={write(folder / name)}" for name, write in WRITERS.items()]
    recipe = "recipes/benchmarks/tiny.yaml"
    reasongrm("run", recipe, *inputs, f"runs_dir={folder / 'runs'}")
    return folder / "runs" / "tiny"


@pytest.mark.parametrize("benchmark", WRITERS)
def test_every_pair_is_judged_in_both_orders_and_the_log_gives_the_scores(artefact, benchmark):
    log = artefact / "verdicts" / benchmark / "tiny_t0.jsonl"
    rows = list(read_jsonl(log, Verdict))
    orders = Counter((row.subset, row.item_id, row.cell) for row in rows)
    assert set(orders.values()) == {2}
    if benchmark == rm_bench.BENCHMARK:
        assert len(orders) == 5 * 9
    scores = json.loads((artefact / "scores.json").read_text())["benchmarks"]
    scored = json.loads(reasongrm("score", benchmark, log, "--details", "--json"))
    (run,) = scores[benchmark]["runs"]
    assert {name: run[name] for name in scored if name != "name"} == {
        name: scored[name] for name in scored if name != "name"
    }
    # greedy, trained to end in a verdict, and on questions of the trained kind
    assert run["statuses"]["ok"] >= 0.8 * len(rows)
    assert all(
        row.correct == ((row.verdict == "A") == (row.order == "chosen_first")) for row in rows if row.verdict
    )
    assert score_log(benchmark, [log]).result.values() == pytest.approx(
        {name: score["value"] for name, score in run["scores"].items()}
    )


def test_tables_and_pages_are_written(artefact):
    tables = (artefact / "tables.md").read_text()
    for number in (1, 2, 3, 4, 5, 6):
        assert f"(the paper's Table {number}, in %)" in tables
    # only a few items: incomplete in every table
    assert tables.count("| tiny (greedy) †‡ |") == 6
    assert (artefact / "tables.tex").read_text().count(r"\end{tabular}") == 6
    for name in WRITERS:
        page = (artefact / "pages" / name / "tiny_t0.md").read_text()
        assert "same answer preferred in both orders" in page
    manifest = json.loads((artefact / "manifest.json").read_text())
    assert {"input rewardbench", "input rm_bench", "input rmb"} <= manifest["identity"].keys()

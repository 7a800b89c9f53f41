# SPDX-License-Identifier: Apache-2.0
"""The smallest part of `make chaos`, run to its end; its tables have the claimed numbers of cases."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from chaos import __main__ as command
from chaos import chain, kinds

ROOT = Path(__file__).resolve().parents[2]


def chaos(work, *words):
    return subprocess.run(
        [sys.executable, "-m", "chaos", "--work", str(work), *words],
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
    )


def test_the_tables_hold_as_many_cases_as_claimed(tmp_path):
    cases = kinds.cases(tmp_path)
    assert len({(case.kind, case.name) for case in cases}) == len({case.slug for case in cases}) == len(cases)
    counts = Counter(case.kind for case in cases)
    assert counts["kill"] >= 40 and counts["file"] >= 200
    assert min(counts[kind] for kind in ("environment", "disk", "files", "network")) > 8
    assert sum(counts[kind] for kind in ("environment", "disk", "files", "network")) >= 60
    assert {case.stage for case in cases if case.kind == "kill"} == {*chain.STAGES}


def test_one_case_of_each_kind_and_the_same_command_again(tmp_path):
    only = [
        "kill: 0_prepare: before the last",
        "environment: 0_prepare: umask 077",
        "files: 0_prepare: a stray folder among",
    ]
    words = [word for name in only for word in ("--only", name)]
    done = chaos(tmp_path, *words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    by_kind = json.loads(done.stdout)["kinds"]
    assert {kind: (row["cases"], row["survived"]) for kind, row in by_kind.items()} == {
        "kill": (1, 1),
        "environment": (1, 1),
        "files": (1, 1),
    }
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 3
    again = chaos(tmp_path, *words)
    assert again.returncode == 0 and "3 of 3 survived" in again.stdout and not again.stderr


def test_failed_cases_are_named_and_counted():
    row = {"kind": "file", "name": "x", "wrong": "traceback: E", "traceback": True, "seconds": 1.0}
    summary = command.table([row, row | {"name": "y", "wrong": "", "traceback": False}])
    assert summary["kinds"] == {"file": {"cases": 2, "survived": 1, "tracebacks": 1, "seconds": 2.0}}
    assert "fell: file: x: traceback: E" in summary["text"] and summary["text"].endswith("1 of 2 survived")

# SPDX-License-Identifier: Apache-2.0
"""Inputs that no command line names: metrics, the user's cache, a machine without loopback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from border_table import GRPO

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.figures import read_figures
from reasongrm_nemo.rollout.server import readers


def test_malformed_metrics_are_refused_by_line(tmp_path):
    file = tmp_path / "metrics.jsonl"
    for line in (
        "null",
        "7",
        "[]",
        "{}",
        '{"step": null}',
        '{"step": "1"}',
        '{"step": true}',
        "{",
        "\0\0",
        "[" * 10**5,
    ):
        file.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
        with pytest.raises(UserError, match=r"metrics\.jsonl:2: "):
            list(read_figures(file))
    file.write_text('{"step": 1}\n{"st')
    assert [figures for _, figures in read_figures(file)] == [{"step": 1}]


def test_damaged_entries_of_the_users_cache_are_ignored(monkeypatch):
    for kept in ("", "null", "7", "[7]", '[{"engine": 7}]', "{", "[" * 10**5):
        monkeypatch.setattr(readers, "remembered", lambda *_, kept=kept: kept)
        assert readers._remembered("key") is None
    monkeypatch.setattr(readers, "remembered", lambda *_: '[{"engine": "e", "read": {}}]')
    assert readers._remembered("key") == [{"engine": "e", "read": {}}]


def test_a_machine_without_a_loopback_address(tmp_path):
    """Run in a separate network namespace, where lo is down."""
    command = [
        "unshare",
        "--net",
        *(["--map-root-user"] if os.geteuid() else []),
        sys.executable,
        "-m",
        "reasongrm_nemo",
    ]
    command += ["serve", GRPO, "model.hf_path=asset:tiny_judge", f"runs_dir={tmp_path}"]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    said = [line for line in done.stderr.splitlines() if line.startswith("reasongrm: ")]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert len(said) == 1
    assert said[0].startswith("reasongrm: this machine has no address 127.0.0.1 (")
    assert said[0].endswith("bring the loopback interface up with `ip link set lo up`")

# SPDX-License-Identifier: Apache-2.0
"""The command when its standard streams are closed, or when memory runs out."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from reasongrm_nemo import cli
from reasongrm_nemo.report import artefact

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_a_stage_finishes_with_closed_streams(tmp_path, closed):
    words = [sys.executable, "-m", "reasongrm_nemo", "run", str(ROOT / "recipes/tiny/0_prepare.yaml")]
    words += [f"runs_dir={tmp_path}", "prepare.tiny_judge={train: 4, validation: 2}"]
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *words], cwd=ROOT, capture_output=True)
    assert done.returncode == 0
    assert (tmp_path / "0_prepare" / "manifest.json").is_file()


def test_too_little_memory_is_one_sentence(tmp_path, monkeypatch):
    def read(*_):
        raise MemoryError

    monkeypatch.setattr(artefact, "read_artefact", read)
    done = CliRunner().invoke(cli.main, ["show", str(tmp_path)])
    assert done.exit_code == 2
    assert done.output.startswith("reasongrm: not enough memory") and done.output.count("\n") == 1

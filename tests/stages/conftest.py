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
    root = Path(__file__).resolve().parents[2]
    env = os.environ | {"PYTHONPATH": str(root)}
    command = [str(rollout_python), str(root / "conversion" / "smollm2_from_package.py"), str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder

# SPDX-License-Identifier: Apache-2.0
"""Random small models and a launcher of gloo ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def launch():
    """``launch(script_or_module, world_size, *arguments)``: gloo ranks; fails with their output."""

    def run(script, world_size, *arguments):
        root = Path(__file__).resolve().parents[2]
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={world_size}"]
        command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", *script, *map(str, arguments)]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]

    return run

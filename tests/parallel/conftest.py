# SPDX-License-Identifier: Apache-2.0
"""A launcher of gloo ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}


@pytest.fixture(scope="session")
def forker():
    """The process that ranks are forked from (see forked_ranks.py)."""
    command = [sys.executable, str(HERE / "forked_ranks.py")]
    with subprocess.Popen(
        command, env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture(scope="session")
def launch(forker, tmp_path_factory):
    """``launch(script, world_size, *arguments)``: gloo ranks on the CPU platform; fails with their output."""
    logs = tmp_path_factory.mktemp("ranks")

    def run(script, world_size, *arguments, **env):
        log = logs / f"{len(list(logs.iterdir()))}.log"
        request = {
            "script": script,
            "world": world_size,
            "arguments": [*map(str, arguments)],
            "env": env,
            "log": str(log),
        }
        forker.stdin.write(json.dumps(request) + "\n")
        forker.stdin.flush()
        codes = json.loads(forker.stdout.readline())
        assert not any(codes), log.read_text()[-6000:]

    return run

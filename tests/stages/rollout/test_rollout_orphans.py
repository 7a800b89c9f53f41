# SPDX-License-Identifier: Apache-2.0
"""No vLLM process outlives the process that started it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reasongrm_nemo.processes import child
from reasongrm_nemo.rollout import Rollouts, RolloutServer

pytestmark = pytest.mark.stages

ROOT = Path(__file__).parents[3]
PARENT = """
import json, sys, time
from pathlib import Path
from reasongrm_nemo.rollout import RolloutServer, RolloutSettings
settings, model, log = json.loads(sys.argv[1])
RolloutServer(RolloutSettings.from_dict(settings), Path(model), Path(log)).start()
print("ready", flush=True)
time.sleep(600)
"""
RESTART = """
import sys
from reasongrm_nemo.rollout import RolloutServer
RolloutServer.from_spec(sys.argv[1]).restart()
"""


def until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def python(program, *words):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", program, *words], env=env, stdout=subprocess.PIPE, text=True
    )


def is_engine_core(pid):
    """Tell the engine core by its command line, since vLLM's start has short-lived children too."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"spawn_main" in line or b"EngineCore" in line


@pytest.mark.parametrize("when", ["starting", "running"])
def test_an_engine_core_dies_with_its_parent(models, make_settings, tmp_path, when):
    log = tmp_path / "server.log"
    parent = python(PARENT, json.dumps([make_settings().to_dict(), str(models["a"][0]), str(log)]))
    try:
        if when == "running":
            assert parent.stdout.readline() == "ready\n"
        else:  # the new engine core has not tied itself to its parent yet
            spec = log.with_suffix(".spec.json")
            until(lambda: spec.exists() and json.loads(spec.read_text())["pid"], 60)
            leader = json.loads(spec.read_text())["pid"]
            until(lambda: any(map(is_engine_core, child._group(leader, 0))), 300)
        leader = json.loads(log.with_suffix(".spec.json").read_text())["pid"]
        members = child._group(leader, 0)
        assert len(members) > 1
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    begin = time.monotonic()
    until(lambda: not child._group(leader, 0), 90)
    print(f"\n{len(members)} processes gone {time.monotonic() - begin:.1f} s after the parent ({when})")


def test_a_server_ends_with_the_process_that_restarted_it(models, make_settings, tmp_path):
    server = RolloutServer(make_settings(), models["a"][0], tmp_path / "server.log")
    try:
        server.start()
        other = python(RESTART, str(server.spec()))
        assert other.wait(500) == 0
        assert server.starts == 2  # this handle notices the restart
        until(lambda: not server.is_alive(), 10)  # the server died with the process that restarted it
        rollouts = Rollouts([server])
        rollouts.use(models["b"][0])
        server.check()
        assert server.starts == 3 and server.model_dir == models["b"][0].resolve()
    finally:
        server.stop()
    assert not server.is_alive()

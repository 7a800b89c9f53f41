# SPDX-License-Identifier: Apache-2.0
"""A stage killed at any moment resumes to the same artefact, and a killed run frees its lock."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from copying import copying_stage, go, recipe_in

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.locks import RunsLock
from reasongrm_nemo.run.manifest import Artefact

WORKER = """
import sys, time
from pathlib import Path
from reasongrm_nemo.recipe.load import load_recipe, recipes_root
from reasongrm_nemo.data.jsonl import JsonlAppender
from reasongrm_nemo.data import HardTask, JudgeTask, read_tasks, write_jsonl
from reasongrm_nemo.files.locks import RunsLock
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.stages import filter as stage
from reasongrm_nemo.run.stage import run_stage

def run(ctx):
    path = ctx.work / "out.jsonl"
    with JsonlAppender(path) as out:
        done = sum(1 for _ in read_tasks(path))
        for i in range(done, 60):
            message = [{"role": "user", "content": "x" * 500}]
            out.append([JudgeTask(str(i), "p", "s", message, "A", "chosen_first")])
            time.sleep(0.01)  # 0.6 s in all, however fast the machine
    return {"n": 60}

stage.run = run
cfg = load_recipe(sys.argv[1])
print("ready", flush=True)
with RunsLock(Path(cfg.runs_dir)):
    run_stage(cfg, Console(quiet=True), pool=None)
"""


ENVIRONMENT = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}


@pytest.fixture
def recipe(tmp_path):
    return recipe_in(tmp_path)


@pytest.fixture
def stage(monkeypatch):
    return copying_stage(monkeypatch)


def test_a_stage_killed_at_any_moment_resumes_to_the_same_artefact(recipe, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    runs, rng, kills = tmp_path / "runs", random.Random(0), 0
    for _ in range(60):
        process = subprocess.Popen([sys.executable, script, recipe], stdout=subprocess.PIPE, env=ENVIRONMENT)
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.25))  # so the first two kills come before the end
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        kills += process.returncode == -signal.SIGKILL
        final = runs / "3_filter"
        if final.exists():  # complete, or absent
            assert json.loads((final / "manifest.json").read_text())["outputs"]["out.jsonl"]["size"] > 0
            break
    assert kills >= 2
    subprocess.run([sys.executable, script, recipe], check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    ids = [json.loads(line)["id"] for line in (final / "out.jsonl").read_text().splitlines()]
    assert ids == [str(i) for i in range(60)]


@pytest.mark.parametrize("moment", ["synced", "described", "old moved"])
def test_a_kill_while_the_artefact_is_put_in_place(recipe, stage, monkeypatch, tmp_path, moment):
    """A kill between the steps of `finish` loses nothing: the next run puts the partial in place."""
    go(recipe)

    class Killed(BaseException):
        pass

    def kill(*args):
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "synced":
            patch.setattr("reasongrm_nemo.run.manifest.artefact.sync_tree", kill)
        elif moment == "described":
            patch.setattr(Artefact, "_place", kill)
        else:
            real = os.rename
            # the second rename: the old artefact is already in .stale, the new one not yet in place
            patch.setattr(os, "rename", lambda a, b: kill() if ".partial" in str(a) else real(a, b))
        with pytest.raises(Killed):
            go(recipe, "seed=2")
    calls = stage.calls
    outcome = go(recipe, "seed=2")
    assert outcome.manifest["seed"] == 2
    assert stage.calls == calls + (moment == "synced")
    assert (tmp_path / "runs" / ".stale" / "3_filter" / "manifest.json").exists()


def test_two_runs_do_not_share_a_folder(tmp_path):
    says = rf"in use by another run \(process {os.getpid()} on "
    with RunsLock(tmp_path / "runs"), pytest.raises(UserError, match=says):
        RunsLock(tmp_path / "runs").__enter__()
    with RunsLock(tmp_path / "runs"):
        pass


def test_a_killed_owner_frees_the_lock(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from reasongrm_nemo.files.locks import RunsLock\n"
        f"with RunsLock(Path({str(tmp_path)!r})): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=ENVIRONMENT)
    process.stdout.readline()
    with pytest.raises(UserError, match=f"process {process.pid} "):
        RunsLock(tmp_path).__enter__()
    process.kill()
    process.wait()
    process.stdout.close()
    with RunsLock(tmp_path):
        pass

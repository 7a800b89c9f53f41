# SPDX-License-Identifier: Apache-2.0
"""GRPO while its rollout server dies: once, it goes on; for good, it saves and ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from reasongrm_nemo.config import load_recipe, resolve_path
from reasongrm_nemo.data.jsonl import write_jsonl
from reasongrm_nemo.data.records import JudgeTask
from reasongrm_nemo.rollout import RolloutServer, RolloutSettings
from reasongrm_nemo.work_order import WorkOrder

ROOT = Path(__file__).resolve().parents[2]
OVERRIDES = ["grpo.steps=5", "grpo.prompts_per_step=4", "grpo.samples_per_prompt=4", "grpo.save_every=5"]


class Run:
    """A GRPO run of one rank with its own server."""

    def __init__(self, folder):
        self.work = folder / "work"
        self.work.mkdir()
        question = "Q:a={};b=a+2;c=b*2;c?\n surely four(A)\n maybe six(B)"
        write_jsonl(
            folder / "tasks.jsonl",
            [
                JudgeTask(
                    f"t{i}",
                    f"p{i}",
                    "test",
                    [{"role": "user", "content": question.format(i)}],
                    "A",
                    "chosen_first",
                )
                for i in range(8)
            ],
        )
        self.cfg = load_recipe(ROOT / "recipes/tiny/1_grpo_zero.yaml", OVERRIDES)
        model = resolve_path("asset:tiny_judge", folder)
        self.server = RolloutServer(RolloutSettings.from_config(self.cfg), model, folder / "server.log")
        self.order = WorkOrder(
            self.cfg, self.work, model, {"tasks": folder / "tasks.jsonl"}, [self.server.spec()]
        )

    def train(self, meanwhile):
        """Run to the end, with ``meanwhile`` on another thread; returns the exit code and the output."""
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=1", "--rdzv-backend=c10d"]
        command += ["--rdzv-endpoint=127.0.0.1:0", "-m", "reasongrm_nemo.grpo.main", str(self.order.write())]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        with self.server:
            process = subprocess.Popen(
                command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            thread = threading.Thread(target=meanwhile, args=(self, process), daemon=True)
            thread.start()
            output, _ = process.communicate(timeout=500)
            thread.join(timeout=60)
        return process.returncode, output

    def metrics(self):
        path = self.work / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def kill_server(self):
        os.killpg(self.server.state()["pid"], signal.SIGKILL)


def wait_for_step(run, process, step):
    while process.poll() is None and len(run.metrics()) < step:
        time.sleep(0.05)


@pytest.mark.timeout(600)
def test_a_killed_server_is_started_again_with_the_current_weights(tmp_path, rollout_python):
    def kill_once(run, process):
        wait_for_step(run, process, 2)
        run.kill_server()

    run = Run(tmp_path)
    code, output = run.train(kill_once)
    assert code == 0, output[-6000:]
    metrics = run.metrics()
    assert [figures["step"] for figures in metrics] == [1, 2, 3, 4, 5]
    assert run.server.starts == 2
    # a server with the folder's weights instead of the policy's would be 1e-3 and more away by now
    assert max(figures["log_prob_error_max"] for figures in metrics) < 1e-4
    assert (run.work / "hf" / "model.safetensors").exists()


@pytest.mark.timeout(600)
def test_a_server_that_cannot_be_kept_ends_the_run_with_a_checkpoint(tmp_path, rollout_python):
    def kill_again_and_again(run, process):
        wait_for_step(run, process, 2)
        seen = None
        while process.poll() is None:
            pid = run.server.state().get("pid")
            if pid and pid != seen:
                seen = pid
                run.kill_server()
            time.sleep(0.05)

    run = Run(tmp_path)
    code, _ = run.train(kill_again_and_again)
    assert code != 0
    done = len(run.metrics())
    assert 2 <= done < 5
    assert (run.work / "checkpoints" / f"step_{done:06d}").is_dir()
    failure = json.loads((run.work / "failures.jsonl").read_text().splitlines()[0])
    assert failure["user"] and "server" in failure["error"].lower()

# SPDX-License-Identifier: Apache-2.0
"""GRPO with a failing server or rank: the run continues, or saves and ends, and nothing is lost.

Tests whose fault leaves a server alive share two servers: every run begins by reloading the model's folder
into them; a server that a run's rank had restarted ended with that rank.
"""

import json
import os
import shutil
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from reasongrm_nemo.data.jsonl import read_tasks, write_jsonl
from reasongrm_nemo.data.records import JudgeTask
from reasongrm_nemo.grpo.order import TaskOrder
from reasongrm_nemo.processes.work_order import WorkOrder
from reasongrm_nemo.recipe.load import load_recipe, resolve_path
from reasongrm_nemo.rollout import Rollouts, RolloutServer, RolloutSettings
from reasongrm_nemo.run.local_ranks import LocalRanks

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes/tiny/1_grpo_zero.yaml"
MODEL = resolve_path("asset:tiny_judge", ROOT)
OVERRIDES = ["grpo.steps=5", "grpo.prompts_per_step=4", "grpo.samples_per_prompt=4", "grpo.save_every=5"]
pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("forked_ranks")]


def servers_of(cfg, folder, model=MODEL):
    return [
        RolloutServer(RolloutSettings.from_config(cfg, i), model, folder / f"server-{i}.log")
        for i in range(cfg.rollout.servers)
    ]


@pytest.fixture(scope="module")
def pair(tmp_path_factory, rollout_python):
    cfg = load_recipe(RECIPE, ["rollout.servers=2"])
    with Rollouts(servers_of(cfg, tmp_path_factory.mktemp("pair"))) as rollouts:
        yield rollouts.servers


class Run:
    """A GRPO run, of one rank unless the overrides say otherwise.

    Args:
        folder: for the run's files.
        overrides: of the recipe.
        servers: running servers shared with other tests; None: the run starts servers.
        served: the model that those servers start with, if not the policy's.
    """

    def __init__(self, folder, *overrides, servers=None, served=MODEL):
        self.folder, self.work = folder, folder / "work"
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
        self.cfg = load_recipe(RECIPE, [*OVERRIDES, *overrides])
        self.shares = servers is not None
        self.servers = (
            servers[: self.cfg.rollout.servers] if servers else servers_of(self.cfg, folder, served)
        )
        self.starts = [0] * len(self.servers)
        self.order = WorkOrder(
            self.cfg,
            self.work,
            MODEL,
            {"tasks": folder / "tasks.jsonl"},
            [server.spec() for server in self.servers],
        )

    def train(self, meanwhile):
        """Run to the end, with ``meanwhile`` on another thread; returns the exit code and the output."""
        command = [sys.executable, "-m", "reasongrm_nemo.grpo.main", str(self.order.write())]
        env, log = os.environ | {"PYTHONPATH": str(ROOT)}, self.folder / "ranks.log"
        with self.serving():
            ranks = LocalRanks(command, self.cfg.cluster.devices_per_node, env, log)
            thread = threading.Thread(target=meanwhile, args=(self, ranks), daemon=True)
            thread.start()
            try:
                code = ranks.wait(500)
            finally:
                ranks.end()
            thread.join(timeout=60)
        return code, log.read_text(errors="replace")

    @contextmanager
    def serving(self):
        """The servers, running with the model's weights."""
        if self.shares:
            Rollouts(self.servers).use(MODEL)
            self.starts = [server.starts for server in self.servers]
            yield
        else:
            with Rollouts(self.servers):
                self.starts = [server.starts for server in self.servers]
                yield

    def restarts(self):
        """How often each server has been restarted since the run began."""
        return [server.starts - begun for server, begun in zip(self.servers, self.starts, strict=True)]

    def metrics(self):
        path = self.work / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def kill_server(self):
        """Kill the last server."""
        os.killpg(self.servers[-1].state()["pid"], signal.SIGKILL)


def wait_for_step(run, process, step):
    while process.returncode is None and len(run.metrics()) < step:
        time.sleep(0.05)


def test_one_killed_server_of_two_is_restarted_with_the_current_weights(tmp_path, pair):
    def kill_once(run, process):
        wait_for_step(run, process, 2)
        run.kill_server()

    run = Run(tmp_path, "rollout.servers=2", servers=pair)
    code, output = run.train(kill_once)
    assert code == 0, output[-6000:]
    metrics = run.metrics()
    assert [figures["step"] for figures in metrics] == [1, 2, 3, 4, 5]
    assert run.restarts() == [0, 1]
    # a server with the folder's weights instead of the policy's would be off by 1e-3 or more by now
    assert max(figures["log_prob_error_max"] for figures in metrics) < 1e-4
    assert (run.work / "hf" / "model.safetensors").exists()


def fault(folder):
    """Overrides that let a file in ``folder`` break the servers (see ``faults/sitecustomize.py``)."""
    env = {"PYTHONPATH": str(ROOT / "tests/stages/faults"), "REASONGRM_TEST_FAULT": str(folder / "fault")}
    return "rollout.extra_env=" + json.dumps(env)


def test_a_server_that_fails_hangs_and_loses_its_weights_is_restarted(tmp_path, rollout_python):
    """Status 500, then the weight channel cut in the middle of an update, then SIGSTOP."""

    def break_it(run, process):
        for restarts, text in enumerate(("http500", "cut")):
            # one step after the last fault, since losing a server twice in a step ends the run
            wait_for_step(run, process, len(run.metrics()) + 1)
            (tmp_path / "fault").write_text(text)
            while process.returncode is None and run.restarts() == [restarts]:
                time.sleep(0.02)
        wait_for_step(run, process, len(run.metrics()) + 1)
        if pid := run.servers[0].state()["pid"]:
            os.killpg(pid, signal.SIGSTOP)

    run = Run(tmp_path, "grpo.steps=8", "rollout.stall_timeout_s=6", fault(tmp_path))
    code, output = run.train(break_it)
    assert code == 0, output[-6000:]
    assert not (tmp_path / "fault").exists()
    assert run.restarts() == [3]
    metrics = run.metrics()
    assert [figures["step"] for figures in metrics] == list(range(1, 9))
    assert max(figures["log_prob_error_max"] for figures in metrics) < 1e-4


def test_rollouts_a_step_ahead_survive_a_killed_server(tmp_path, pair):
    def kill_once(run, process):
        wait_for_step(run, process, 2)
        run.kill_server()

    run = Run(tmp_path, "grpo.max_lag=1", "rollout.servers=2", "grpo.optim.lr=1e-3", servers=pair)
    code, output = run.train(kill_once)
    assert code == 0, output[-6000:]
    assert run.restarts() == [0, 1]
    metrics = run.metrics()
    assert [figures["step"] for figures in metrics] == [1, 2, 3, 4, 5]
    # the first step's rollouts come from the current policy; the others' are one update old
    assert metrics[0]["log_prob_error_max"] < 1e-4
    assert [figures["rollout_age"] for figures in metrics] == [0, 1, 1, 1, 1]
    assert max(figures["log_prob_error_max"] for figures in metrics[1:]) > 1e-4
    print([figures["log_prob_error_mean"] for figures in metrics])


def test_a_killed_rank_ends_the_run_and_the_same_command_resumes_it(tmp_path, pair):
    def kill_rank(run, process):
        wait_for_step(run, process, 3)
        os.kill(process.pids[-1], signal.SIGKILL)

    layout = ["cluster.devices_per_node=2", "cluster.threads_per_rank=1", "grpo.save_every=2"]
    run = Run(tmp_path, *layout, servers=pair)
    code, _ = run.train(kill_rank)
    assert code != 0
    done = {figures["step"]: figures["reward"] for figures in run.metrics()}
    assert 3 <= len(done) <= 5
    code, output = run.train(lambda run, process: None)
    assert code == 0, output[-6000:]
    again = {figures["step"]: figures["reward"] for figures in run.metrics()}
    assert list(again) == [1, 2, 3, 4, 5]
    # a repeated step trains on the same answers as before
    assert all(again[step] == reward for step, reward in done.items())


def test_stragglers_are_counted_and_their_tasks_are_not_repeated(tmp_path, pair):
    """The budget ends before the first answer, so whatever does not arrive with that answer is dropped."""
    run = Run(tmp_path, "rollout.straggler_timeout_s=0.001", servers=pair)
    code, output = run.train(lambda run, process: None)
    assert code == 0, output[-6000:]
    metrics = run.metrics()
    assert [figures["groups"] + figures["stragglers"] for figures in metrics] == [4] * 5
    assert all(figures["groups"] >= 1 for figures in metrics)
    assert sum(figures["stragglers"] for figures in metrics) > 0
    tasks = list(read_tasks(run.folder / "tasks.jsonl"))
    for step, figures in enumerate(metrics):
        file = run.work / "rollouts" / f"step_{step:06d}.jsonl"
        groups = [json.loads(line) for line in file.read_text().splitlines()]
        assert [len(group) for group in groups].count(0) == figures["stragglers"]
        prompts = [group[0]["prompt_id"].split(":")[1] for group in groups if group]
        # eight tasks, four a step: a straggler's task does not move into the next step
        expected = TaskOrder(tasks, 4, run.cfg.seed, True).take(4 * step)
        assert set(prompts) <= {task.id for task in expected}


def test_a_server_that_keeps_dying_ends_the_run_with_a_checkpoint(tmp_path, pair):
    def kill_again_and_again(run, process):
        wait_for_step(run, process, 2)
        seen = None
        while process.returncode is None:
            pid = run.servers[-1].state().get("pid")
            if pid and pid != seen:
                seen = pid
                run.kill_server()
            time.sleep(0.05)

    run = Run(tmp_path, servers=pair)
    code, _ = run.train(kill_again_and_again)
    assert code != 0
    done = len(run.metrics())
    assert 2 <= done < 5
    assert (run.work / "checkpoints" / f"step_{done:06d}").is_dir()
    failure = json.loads((run.work / "failures.jsonl").read_text().splitlines()[0])
    assert failure["user"] and "server" in failure["error"].lower()


def test_a_server_that_reads_another_rope_ends_the_run_before_the_first_update(tmp_path, rollout_python):
    """Rollouts of a different model are not trained on, but kept."""
    served = tmp_path / "served"
    shutil.copytree(MODEL, served)
    config = json.loads((served / "config.json").read_text())
    (served / "config.json").write_text(json.dumps(config | {"rope_theta": 20.0}))
    run = Run(tmp_path, served=served)
    code, _ = run.train(lambda run, process: None)
    assert code != 0
    failures = [json.loads(line) for line in (run.work / "failures.jsonl").read_text().splitlines()]
    assert failures[0]["user"] and failures[0]["error"].startswith("step 1: the trainer's log-probs differ")
    assert "rope_theta" in failures[0]["error"]
    assert run.metrics() == []
    rows = (run.work / "rollouts" / "step_000000.jsonl").read_text().splitlines()
    assert [len(json.loads(row)) for row in rows] == [4] * 4

# SPDX-License-Identifier: Apache-2.0
"""Runs that end early, by a signal, a wall time or early stopping, and whether they resume."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from reasongrm_nemo.data.jsonl import write_jsonl
from reasongrm_nemo.data.records import JudgeTask, SftExample
from reasongrm_nemo.megatron.weights import convert
from reasongrm_nemo.processes.work_order import WorkOrder
from reasongrm_nemo.recipe.load import load_recipe, resolve_path

ROOT = Path(__file__).resolve().parents[2]
MODEL = "asset:tiny_judge"
QUESTION = "Q:a={};b=a+2;c=b*2;c?\n surely four(A)\n maybe six(B)"
ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture
def examples(tmp_path):
    answer = "a={0};b={0}+2={1};c={1}*2={2} is four(A)\n</think>\n\n[[A]]"
    path = tmp_path / "examples.jsonl"
    write_jsonl(
        path,
        [
            SftExample(
                task_id=f"t{i}",
                messages=[
                    {"role": "user", "content": QUESTION.format(i)},
                    {"role": "assistant", "content": answer.format(i % 5, i % 7, i % 9)},
                ],
                r_star=0.5,
                self_consistency=0.5,
                validity=1.0,
                strategy="r_star",
            )
            for i in range(40)
        ],
    )
    return path


def sft(launch, work, examples, *overrides, **env):
    """Run one rank of the SFT stage to its end."""
    work.mkdir(exist_ok=True)
    small = ["sft.batch_size=4", "sft.epochs=3", "sft.save_every=1", "sft.keep_checkpoints=1"]
    recipe = load_recipe(ROOT / "recipes/tiny/4_sft.yaml", [*small, *overrides])
    order = WorkOrder(recipe, work, resolve_path(MODEL, ""), {"examples": examples})
    launch("reasongrm_nemo.sft.main", 1, order.write(), **env)


def test_validation_ends_a_run_that_gets_worse_and_the_best_weights_are_exported(launch, tmp_path, examples):
    work = tmp_path / "work"
    sft(
        launch,
        work,
        examples,
        "sft.validation={every: 1, fraction: 0.3, patience: 2, export: best}",
        "checkpoints.keep_best=1",
        # learns during warm-up, then diverges
        "sft.optim={lr: 0.03, warmup_steps: 40, schedule: constant}",
        "tracking={tensorboard: true, wandb_project: tests, mlflow_experiment: tests}",
    )
    losses = [line["loss"] for line in lines(work / "validation.jsonl")]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert best > 0, "it must have learned first"
    assert len(lines(work / "metrics.jsonl")) < 21, "three epochs of some 28 examples in fours"
    assert all(loss >= losses[best] for loss in losses[best + 1 :])
    assert len(losses) - best - 1 == 2, "patience"

    checkpoint = work / "checkpoints" / f"step_{best + 1:06d}"
    convert.megatron_to_hf(checkpoint, tmp_path / "best", companions=resolve_path(MODEL, ""))
    exported, expected = (
        load_file(work / "hf/model.safetensors"),
        load_file(tmp_path / "best/model.safetensors"),
    )
    assert exported.keys() == expected.keys()
    assert all((exported[name] == expected[name]).all() for name in expected)

    # every tracker has recorded the run
    assert list((work / "tensorboard").glob("events.*"))
    assert list((work / "wandb").glob("offline-run-*/*.wandb"))
    curve = list((work / "mlruns").rglob("metrics/validation/loss"))
    assert len(curve) == 1
    assert len(curve[0].read_text().splitlines()) == len(losses)


def test_a_wall_time_ends_a_run_that_then_resumes_as_if_uninterrupted(launch, tmp_path, examples):
    sft(launch, tmp_path / "unbroken", examples)
    work = tmp_path / "work"
    long_ago = str(time.time() - 7200)
    sft(
        launch, work, examples, "checkpoints.checkpoint_must_save_by='02:00:00'", REASONGRM_JOB_START=long_ago
    )
    marker = json.loads((work / "stopped.json").read_text())
    assert "checkpoint_must_save_by" in marker["reason"]
    assert [line["step"] for line in lines(work / "metrics.jsonl")] == [1]
    assert (work / "checkpoints" / "step_000001").is_dir()
    assert not (work / "hf").exists()

    sft(launch, work, examples)
    assert len(lines(work / "metrics.jsonl")) == 30
    same = [(folder / "hf/model.safetensors").read_bytes() for folder in (work, tmp_path / "unbroken")]
    assert same[0] == same[1]


@pytest.mark.timeout(600)
def test_a_signal_saves_and_ends_with_status_0_and_the_same_command_resumes(tmp_path, rollout_python):
    tasks = [
        JudgeTask(
            f"t{i}", f"p{i}", "test", [{"role": "user", "content": QUESTION.format(i)}], "A", "chosen_first"
        )
        for i in range(8)
    ]
    write_jsonl(tmp_path / "tasks.jsonl", tasks)
    runs = tmp_path / "runs"
    command = [sys.executable, "-m", "reasongrm_nemo", "run", str(ROOT / "recipes/tiny/1_grpo_zero.yaml")]
    command += [f"inputs.tasks={tmp_path}/tasks.jsonl", f"inputs.validation={tmp_path}/tasks.jsonl"]
    command += [f"runs_dir={runs}", "grpo.steps=6", "grpo.prompts_per_step=4", "grpo.samples_per_prompt=4"]
    command += ["grpo.save_every=4", "grpo.validation={every: 2, max_tasks: 4}"]

    def run(until=None):
        process = subprocess.Popen(
            command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if until is not None:
            metrics = runs / ".partial/1_grpo_zero/metrics.jsonl"
            while process.poll() is None and not (metrics.exists() and len(lines(metrics)) >= until):
                time.sleep(0.05)
            process.send_signal(signal.SIGUSR1)
        output = process.communicate(timeout=500)[0]
        assert process.returncode == 0, output[-4000:]
        return output

    output = run(until=1)
    partial = runs / ".partial/1_grpo_zero"
    assert "run the same command again to resume" in output
    reason = json.loads((partial / "stopped.json").read_text())["reason"]
    assert "stop" in reason
    done = len(lines(partial / "metrics.jsonl"))
    assert 1 <= done < 6
    assert (partial / "checkpoints" / f"step_{done:06d}").is_dir(), "saved although no save was due"
    assert not (runs / "1_grpo_zero").exists()
    assert not (runs / "stop").exists()

    run()
    finished = runs / "1_grpo_zero"
    assert [line["step"] for line in lines(finished / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    validations = lines(finished / "validation.jsonl")
    assert [line["step"] for line in validations] == [2, 4, 6]
    assert all(0 <= line["accuracy"] <= 1 for line in validations)
    assert (finished / "hf/model.safetensors").exists()
    assert not (finished / "stopped.json").exists()

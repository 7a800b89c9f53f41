# SPDX-License-Identifier: Apache-2.0
"""The tiny pipeline in a smoke size, killed in every stage and run again: is it complete, did it learn?

A killed and resumed run equals an uninterrupted one in everything that does not depend on vLLM's scheduling:
the tasks, the numbers of records, selection and mining from given paths, and training on given rollouts
(bitwise, test_resume.py). vLLM's log-probs can differ in the last bit, and so the sampled tokens, with the
requests that happen to be batched together, so sampled texts are checked for invariants instead.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import success
from listeners import Watch, descendants_of, open_to_strangers

from reasongrm_nemo.data import HardTask, JudgeTask, ReasoningPath, SftExample, read_jsonl
from reasongrm_nemo.demo.tiny_judge import mode
from reasongrm_nemo.rstar import score_sums

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(1500)
# stage -> the file in the unfinished artefact whose appearance triggers the kill
KILLS = {
    "0_prepare": "stage.json",
    "1_grpo_zero": "checkpoints/step_000004",
    "2_generate": "paths.jsonl.partial",
    "4_sft": "trainer.log",
    "5_mine": "paths.jsonl.partial",
    "6_grpo_hard": "rollouts",
    "7_evaluate": "verdicts",
}


def start(runs, stage):
    """Start the pipeline up to a stage."""
    command = [sys.executable, "-m", "reasongrm_nemo", "pipeline", "recipes/tiny_smoke", "--to", stage]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*command, f"runs_dir={runs}"],
        env=env,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory, rollout_python):
    """The runs folder of a pipeline killed once in every stage, its last output, and the sockets it opened.

    The same command resumes the killed stage and continues to the next one, where it is killed in turn.
    """
    runs, heard, before = tmp_path_factory.mktemp("pipeline") / "runs", set(), None
    for stage, sign in KILLS.items():
        process = start(runs, stage)
        moment = runs / ".partial" / stage / sign
        with Watch(lambda pid=process.pid: descendants_of(pid), every_s=0.5) as watch:
            while process.poll() is None and not moment.exists():
                time.sleep(0.02)
            family = descendants_of(process.pid)[1:]
            process.send_signal(signal.SIGKILL)
        heard |= watch.sockets
        output = process.communicate()[0]
        assert moment.exists() or (runs / stage).exists(), output[-4000:]
        assert before is None or (runs / before).exists(), f"{before} was not resumed: {output[-4000:]}"
        before = stage
        end = time.monotonic() + 20
        while left := [pid for pid in family if Path(f"/proc/{pid}").exists() and not _zombie(pid)]:
            assert time.monotonic() < end, f"{stage}: processes outlived the killed pipeline: {left}"
            time.sleep(0.1)
    process = start(runs, stage)
    with Watch(lambda pid=process.pid: descendants_of(pid), every_s=0.5) as watch:
        output = process.communicate(timeout=900)[0]
    assert process.returncode == 0, output[-6000:]
    return runs, output, heard | watch.sockets


def _zombie(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def metrics(runs, stage):
    return [json.loads(line) for line in (runs / stage / "metrics.jsonl").read_text().splitlines()]


def paths(runs, stage):
    return list(read_jsonl(runs / stage / "paths.jsonl", ReasoningPath))


def test_everything_listens_only_on_loopback(run):
    """Ranks of GRPO and SFT, the weight channel, the rollout servers: nothing is open to the network."""
    heard = run[2]
    assert any("grpo.main" in words for words, _ in heard) and any("VLLM" in words for words, _ in heard)
    assert not open_to_strangers(heard, {"127.0.0.1"})


@pytest.mark.runs("-m reasongrm_nemo.grpo.main")
@pytest.mark.runs("-m reasongrm_nemo.sft.main")
@pytest.mark.runs("-m reasongrm_nemo.processes.child")
@pytest.mark.runs("-m reasongrm_nemo.rollout.server.vllm_main")
@pytest.mark.runs("-m reasongrm_nemo.rollout.server.read_config")
@pytest.mark.runs("-m reasongrm_nemo.models.tokenization.theirs")
def test_every_artefact_is_complete(run):
    runs = run[0]
    for stage in [*KILLS, "3_filter"]:
        manifest = json.loads((runs / stage / "manifest.json").read_text())
        assert manifest["name"] == stage
    assert not list((runs / ".partial").glob("*"))
    logs = (runs / ".logs").rglob("rollout-server.log")
    assert any("Started server process" in log.read_text(errors="replace") for log in logs)
    # ranks, servers and the two programs that query the engines; a stage fails without any of them
    for name in ("grpo.main", "sft.main", "processes.child", "rollout.server.vllm_main"):
        success.note(f"-m reasongrm_nemo.{name}")
    for name in ("rollout.server.read_config", "models.tokenization.theirs"):
        success.note(f"-m reasongrm_nemo.{name}")


@pytest.mark.parametrize("stage", ["1_grpo_zero", "6_grpo_hard"])
def test_every_step_is_recorded_once_and_the_engines_agree(run, stage):
    figures = metrics(run[0], stage)
    assert [line["step"] for line in figures] == list(range(1, len(figures) + 1))
    assert max(line["log_prob_error_max"] for line in figures) < 1e-3
    assert max(line["log_prob_error_mean"] for line in figures) < 1e-5


@pytest.mark.parametrize(("stage", "samples"), [("2_generate", 8), ("5_mine", 4)])
def test_every_task_has_its_samples_once(run, stage, samples):
    counts = Counter((path.task_id, path.sample) for path in paths(run[0], stage))
    assert set(counts.values()) == {1}
    assert len(counts) == 120 * samples


def test_uniform_groups_are_skipped(run):
    figures = metrics(run[0], "1_grpo_zero")
    assert all(line["groups"] == 16 and 0 <= line["kept"] <= 16 for line in figures)
    assert any(line["kept"] < 16 for line in figures)


def test_examples_are_the_argmax_of_r_star_among_right_paths(run):
    runs = run[0]
    best = {}
    for path in paths(runs, "2_generate"):
        if path.correct and path.finish_reason == "stop":
            best[path.task_id] = max(best.get(path.task_id, 0.0), score_sums(path).score)
    examples = list(read_jsonl(runs / "3_filter" / "examples.jsonl", SftExample))
    assert {e.task_id: e.r_star for e in examples} == pytest.approx(best)


def test_hard_tasks_are_those_not_always_right(run):
    runs = run[0]
    wrong = {path.task_id for path in paths(runs, "5_mine") if not path.correct}
    hard = list(read_jsonl(runs / "5_mine" / "hard.jsonl", HardTask))
    assert {task.id for task in hard} == wrong
    labels = {task.id: task.label for task in read_jsonl(runs / "0_prepare" / "tasks.jsonl", JudgeTask)}
    assert all(task.label == labels[task.id] for task in hard)


def test_zero_learnt_to_answer_correctly_and_in_form(run):
    runs = run[0]
    scores = json.loads((runs / "7_evaluate" / "scores.json").read_text())["scores"]
    base, zero = (
        next(s for s in scores if s["model"] == m and s["temperature"] == 1.0) for m in ("base", "zero")
    )
    assert zero["format"] >= 0.95
    assert zero["modes"]["concise"] >= base["modes"]["concise"] + 0.2


def artefact_files(runs):
    files = (file for stage in [*KILLS, "3_filter"] for file in (runs / stage).rglob("*"))
    return {file: file.stat().st_mtime_ns for file in files if file.is_file()}


def test_the_same_command_again_does_nothing(run):
    runs = run[0]
    before = artefact_files(runs)
    process = start(runs, "5_mine")
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 0 and output.count("done before") == 6, output
    assert artefact_files(runs) == before


def test_paths_record_how_they_were_sampled(run):
    assert {mode(path.text) for path in paths(run[0], "2_generate")} <= {
        "concise",
        "shallow",
        "skip",
        "meander",
    }
    assert all(
        path.correct == (path.verdict is not None) or not path.correct for path in paths(run[0], "2_generate")
    )

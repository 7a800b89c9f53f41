# SPDX-License-Identifier: Apache-2.0
"""The command: exit codes, one line per error, JSON, signals, and a start without heavy imports."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from reasongrm_nemo import __version__
from reasongrm_nemo.cli import main
from reasongrm_nemo.stages import filter as filter_stage

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = dict(os.environ) | {"PYTHONPATH": str(ROOT)}
RECIPE = "defaults: [base/filter]\ninputs: {paths: paths.jsonl, tasks: tasks.jsonl}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "3_filter.yaml").write_text(RECIPE)
    (tmp_path / "paths.jsonl").write_text("p")
    (tmp_path / "tasks.jsonl").write_text("t")
    return tmp_path


@pytest.fixture
def stage(monkeypatch):
    def run(ctx):
        (ctx.work / "out.txt").write_text("out")
        ctx.drop("too long", 2)
        return {"examples": 3, "share": 0.123456}

    monkeypatch.setattr(filter_stage, "run", run)


def call(*words):
    return CliRunner().invoke(main, list(words))


def command(*words, **options):
    line = [sys.executable, "-m", "reasongrm_nemo", *words]
    return subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT, timeout=120, **options)


def test_run_prints_the_artefact_on_stdout_and_progress_on_stderr(folder, stage):
    result = call("run", "demo/3_filter.yaml", "filter.strategy=shortest")
    assert result.exit_code == 0
    assert result.stdout == "runs/demo/3_filter\n"
    assert "dropped: 2 too long" in result.stderr
    again = call("run", "demo/3_filter.yaml", "filter.strategy=shortest")
    assert "done before" in again.stderr


def test_run_as_json(folder, stage):
    result = call("run", "demo/3_filter.yaml", "--json")
    manifest = json.loads(result.stdout)
    assert manifest["result"]["examples"] == 3 and manifest["drops"] == {"too long": 2}
    assert result.stderr == ""


def test_pipeline_and_show(folder, stage):
    result = call("pipeline", "demo", "seed=2", "--from", "3", "--to", "filter")
    assert result.exit_code == 0, result.stderr
    assert "3_filter" in result.stdout and "runs/demo/3_filter" in result.stdout
    report = json.loads(call("pipeline", "demo", "seed=2", "--json").stdout)
    assert report["stages"][0]["skipped"] is True and report["evaluation"] is None
    shown = call("show", "runs/demo/3_filter")
    assert (
        "stage filter, seed 2" in shown.stdout and "0.1235" in shown.stdout and "2 too long" in shown.stdout
    )
    assert json.loads(call("show", "runs/demo/3_filter", "--json").stdout)["seed"] == 2


def test_plan_prints_the_resolved_recipe_with_its_origins(folder):
    result = call("plan", "demo/3_filter.yaml", "seed=5")
    assert result.exit_code == 0, result.stderr
    assert "seed: 5" in result.stdout and "command line" in result.stdout
    assert "recipes/base/filter.yaml:" in result.stdout
    assert json.loads(call("plan", "demo/3_filter.yaml", "--json").stdout)["filter"]["strategy"] == "r_star"
    assert not (folder / "runs").exists()


def test_plan_gives_figures_for_a_stage_a_pipeline_and_layouts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = "recipes/qwq_32b/1_grpo_zero.yaml"
    one = call("plan", recipe, "--no-check")
    assert one.exit_code == 0, one.stderr
    assert "32.764 B parameters, 32 GPUs, TP8 × PP4 × DP1" in one.stdout and "GPU-hours" in one.stdout
    figures = json.loads(call("plan", recipe, "--no-check", "--json").stdout)["figures"]
    assert figures["parameters"] == 32_763_876_352 and len(figures["ranks"]) == 4
    whole = call("plan", "recipes/qwq_32b", "--json")
    assert list(json.loads(whole.stdout)) == [
        f"{i}_{name}"
        for i, name in enumerate(
            ["prepare", "grpo_zero", "generate", "filter", "sft", "mine", "grpo_hard", "evaluate"]
        )
    ]
    assert "in all" in call("plan", "recipes/qwq_32b").stdout
    layouts = call("plan", recipe, "--sweep", "tp,pp,cp")
    assert "TP8 × PP4 × DP1 (the recipe's)" in layouts.stdout and "CP is 1 throughout" in layouts.stdout
    rows = json.loads(call("plan", recipe, "--sweep", "pp", "--json").stdout)
    assert [row["pipeline"] for row in rows] == [1, 2, 4] and {row["tensor"] for row in rows} == {8}
    assert call("plan", recipe, "--sweep", "dp").stderr.startswith('reasongrm: --sweep: "dp" is not an axis')


def test_plan_simulates_the_rollouts_of_a_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = "recipes/qwq_32b/1_grpo_zero.yaml"
    row = {"reasoning_tokens": 900, "answer_tokens": 99, "finish_reason": "stop"}
    rows = [row | {"task_id": f"t{i // 4}", "reasoning_tokens": 500 + 37 * i} for i in range(40)]
    (tmp_path / "paths.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = call("plan", recipe, "--lengths", "paths.jsonl", "--plot", "step.png")
    assert told.exit_code == 0, told.stderr
    assert "drawn from 40 paths, 0.0% cut" in told.stdout and "lag 1" in told.stdout
    assert (tmp_path / "step.png").read_bytes()[:4] == b"\x89PNG"
    data = json.loads(call("plan", recipe, "rollout.straggler_timeout_s=60", "--rollouts", "--json").stdout)
    names = [choice["name"] for choice in data["choices"]]
    assert names[:4] == ["one after the other", "lag 1", "lag 2", "straggler budget 60 s"]
    serial, lag, _, budget, *_ = data["choices"]
    assert lag["step"] < serial["step"] and budget["step"] < serial["step"]
    assert 0 < budget["lost"] < 1 and budget["length"] < 1  # long answers are the ones that are lost
    wrong = call("plan", "recipes/qwq_32b/4_sft.yaml", "--rollouts")
    assert wrong.exit_code == 2 and "4_sft is of stage sft" in wrong.stderr
    assert "--plot" in call("plan", recipe, "--plot", "none/step.png").stderr


def test_plan_says_that_nemo_aligner_did_not_check_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["plan", "recipes/qwq_32b/1_grpo_zero.yaml", "cluster.trainer_python=/opt/on/the/cluster"]
    told = call(*words)
    assert told.exit_code == 0 and told.stderr == ""
    assert told.stdout.endswith("own code: no NeMo-Aligner here (cluster.trainer_python)\n")
    assert call(*words, "--simulate").stderr.startswith(
        "reasongrm: a simulated step needs the trainer environment"
    )


def test_plan_prints_what_it_refuses_and_ends_with_2(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("plan", "recipes/qwq_32b/1_grpo_zero.yaml", "model.recompute=none")
    assert result.exit_code == 2 and "stage 0" in result.stdout
    assert "1_grpo_zero does not fit: model.recompute is none" in result.stderr
    assert result.stderr.count("\n") == 1
    unknown = call("plan", "recipes/qwq_32b/1_grpo_zero.yaml", "plan.config=null")
    assert (
        unknown.exit_code == 0 and "no figures: 1_grpo_zero: the model's shape is unknown" in unknown.stdout
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["run", "demo/3_filtr.yaml"],
            'recipe demo/3_filtr.yaml does not exist (did you mean "3_filter.yaml"?)',
        ),
        (["run", "demo/3_filter.yaml", "filter.strateg=all"], 'unknown key "filter.strateg"'),
        (
            ["run", "demo/3_filter.yaml", "inputs.paths=nowhere.jsonl"],
            "inputs.paths: nowhere.jsonl does not exist",
        ),
        (["pipeline", "demo", "--from", "9"], '--from "9" is not a stage'),
        (["show", "runs/none"], "runs/none does not exist"),
        (["show", "demo"], "demo is not an artefact"),
        (["serve", "demo/3_filter.yaml"], "model.hf_path is null"),
        (["plan", "demo/3_filter.yaml", "seed=x"], "seed must be a whole number"),
    ],
)
def test_a_user_error_is_one_line_and_status_2(folder, words, says):
    result = call(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("reasongrm: ") and result.stderr.count("\n") == 1
    assert says in result.stderr


def test_debug_shows_the_traceback(folder):
    result = command("run", "none.yaml", "--debug", cwd=folder)
    assert "Traceback" in result.stderr and "UserError" in result.stderr


def test_an_unknown_command_or_option_is_clicks_error(folder):
    assert call("trian").exit_code == 2
    assert call("run", "demo/3_filter.yaml", "--jsn").exit_code == 2
    assert call("--version").stdout.strip().endswith(__version__)


def test_the_command_starts_without_torch(folder):
    code = (
        "import sys\nfrom reasongrm_nemo.cli import main\n"
        "try: main(['plan', 'demo/3_filter.yaml'])\n"
        "except SystemExit as end: assert end.code in (0, None), end.code\n"
        "heavy = {'torch', 'transformers', 'nemo', 'vllm', 'pyarrow'} & set(sys.modules)\n"
        "print(*heavy, file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, cwd=folder
    )
    assert result.returncode == 0 and result.stderr.strip() == ""


def test_python_m(folder):
    result = command("--help")
    assert result.returncode == 0 and "pipeline" in result.stdout


WAITING = """
import signal, sys, time
from reasongrm_nemo.stages import filter as stage
# a job that a shell runs in the background ignores SIGINT, and so would its children
signal.signal(signal.SIGINT, signal.default_int_handler)
def run(ctx):
    (ctx.work / "half.txt").write_text("half")
    print("working", flush=True)
    time.sleep(60)
stage.run = run
from reasongrm_nemo.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", [["run", "demo/3_filter.yaml"], ["pipeline", "demo"]])
def test_ctrl_c_and_sigterm_end_cleanly_and_say_what_is_kept(folder, number, words):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        cwd=folder,
    )
    assert process.stdout.readline() == "working\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "reasongrm: stopped; " in said and "run the same command again to resume" in said
    assert (folder / "runs" / "demo" / ".partial" / "3_filter" / "half.txt").exists()

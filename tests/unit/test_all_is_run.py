# SPDX-License-Identifier: Apache-2.0
"""Every command, option, template and program is run to success by a marked test; here the light ones."""

import json
import os
import runpy
import subprocess
import sys

import pytest
import success
from click.testing import CliRunner
from success import ROOT

from reasongrm_nemo.cli import main
from reasongrm_nemo.data.jsonl import write_jsonl
from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.evaluation import rewardbench
from reasongrm_nemo.evaluation.tasks import BenchmarkTask
from reasongrm_nemo.stages import filter as filter_stage

# programs that no test runs, and why
NOT_RUN = {
    "benchmarks/peer_mbridge.py": "needs an environment with mbridge",
    "benchmarks/peer_trl.py": "needs the environment of benchmarks/trl.lock",
    "benchmarks/step_ours.py": "a part of grpo_step.py, which needs that environment",
    "benchmarks/rollout_ours.py": "a part of rollout_rate.py, minutes",
    "benchmarks/rollout_vllm.py": "a part of rollout_rate.py, minutes",
    "scripts/tiny_base.py": "seven minutes of training by recipes/tiny_base; --help is run",
    "scripts/check_shell.py": "`make lint` runs it before any test",
    "-m reasongrm_nemo.demo.smollm2": "what conversion/smollm2_from_package.py runs",
    "scripts/setup_env.py": "builds environments; each `make` target runs it first",
}
HELPED = (
    "benchmarks/conversion.py",
    "benchmarks/filter_mine.py",
    "benchmarks/grpo_step.py",
    "benchmarks/refit.py",
    "benchmarks/rollout_rate.py",
    "benchmarks/score.py",
    "benchmarks/step_share.py",
    "benchmarks/table3.py",
    "conversion/hf_to_megatron.py",
    "conversion/megatron_to_hf.py",
    "scripts/tiny_base.py",
)


def call(*words):
    result = CliRunner().invoke(main, [*map(str, words)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_everything_is_run_to_success_by_a_marked_test():
    there = {*success.commands(), *success.programs()}
    said = set(success.marks())
    helped = {name for name in HELPED if name.startswith("benchmarks/")}  # minutes each
    missing = {pair for pair in there - said if pair[0] not in {*NOT_RUN, *helped}}
    assert not missing, "mark the test that runs it: " + ", ".join(sorted(" ".join(pair) for pair in missing))
    stale = {pair for pair in said - there if pair[0] not in ("", *NOT_RUN)}
    assert not stale, f"marked, and not there: {sorted(stale)}"
    assert set(NOT_RUN) <= {name for name, _ in there}


def test_a_command_line_records_only_the_options_it_has(request):
    success.recorded.clear()
    success.note_line([sys.executable, "-m", "reasongrm_nemo", "plan", "x.yaml", "--json"])
    assert success.recorded == {("-m reasongrm_nemo", ""), ("plan", ""), ("plan", "--json")}
    assert ("plan", "--sweep") not in success.recorded


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A pipeline of one stage, which writes one file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    recipe = "defaults: [base/filter]\ninputs: {paths: paths.jsonl, tasks: tasks.jsonl}\n"
    (tmp_path / "demo" / "3_filter.yaml").write_text(recipe)
    (tmp_path / "paths.jsonl").write_text("p")
    (tmp_path / "tasks.jsonl").write_text("t")
    monkeypatch.setattr(filter_stage, "run", lambda ctx: (ctx.work / "out.txt").write_text("x") and {})


@pytest.mark.runs("run", "--json", "--debug")
@pytest.mark.runs("pipeline", "--from", "--to", "--json", "--debug")
@pytest.mark.runs("show", "--verify", "--json", "--debug")
@pytest.mark.runs("status", "--json", "--debug")
def test_commands_that_run_stages_or_read_artefacts(demo):
    call("run", "demo/3_filter.yaml", "--debug")
    assert json.loads(call("run", "demo/3_filter.yaml", "--json"))["name"] == "3_filter"
    assert "3_filter" in call("pipeline", "demo", "--from", "3", "--to", "filter", "--debug")
    assert json.loads(call("pipeline", "demo", "--json"))["stages"][0]["skipped"]
    assert "stage filter" in call("show", "runs/demo/3_filter", "--debug")
    assert json.loads(call("show", "runs/demo/3_filter", "--json"))["stage"] == "filter"
    call("show", "runs/demo/3_filter", "--verify")
    assert "3_filter  done" in call("status", "runs/demo", "--debug")
    assert json.loads(call("status", "runs/demo", "--json"))["stages"][0]["state"] == "done"


@pytest.mark.runs("plan", "--no-check", "--sweep", "--rollouts", "--lengths", "--plot", "--json", "--debug")
@pytest.mark.runs("chain", "--from", "--to", "--shards", "--no-conversion", "--shell", "--debug")
@pytest.mark.runs("preflight", "--off", "--dry-run", "--job-nodes", "--debug")
def test_commands_that_only_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grpo = "recipes/qwq_32b/1_grpo_zero.yaml"
    assert "32 GPUs" in call("plan", grpo, "--no-check", "--debug")
    assert json.loads(call("plan", grpo, "--sweep", "tp", "--json"))
    row = {"reasoning_tokens": 900, "answer_tokens": 99, "finish_reason": "stop", "task_id": "t"}
    (tmp_path / "paths.jsonl").write_text(json.dumps(row))
    small = ["grpo.prompts_per_step=2", "grpo.global_batch=16"]
    call("plan", grpo, *small, "--rollouts", "--lengths", "paths.jsonl", "--plot", "step.png")
    assert (tmp_path / "step.png").exists()
    words = ["--from", "3", "--to", "4", "--shards", "2", "--no-conversion"]
    chain = json.loads(call("chain", "recipes/tiny", f"runs_dir={tmp_path}", *words, "--debug"))
    assert [job["name"] for job in chain["jobs"]] == ["3_filter", "4_sft"]
    assert "3_filter\tfilter\ttodo" in call("chain", "recipes/tiny", f"runs_dir={tmp_path}", "--shell")
    call("preflight", grpo, "--dry-run", "--job-nodes", "4", "--debug")
    call("preflight", "recipes/tiny/0_prepare.yaml", "--off", f"runs_dir={tmp_path}/runs")


@pytest.mark.runs("preflight", "--quick", "--notes")
def test_this_machine_is_fit_for_a_small_stage(tmp_path, rollout_python):
    words = ["recipes/tiny/0_prepare.yaml", "--quick", "--notes", tmp_path / "notes"]
    call("preflight", *words, f"runs_dir={tmp_path}/runs", f"cluster.rollout_python={rollout_python}")
    assert f"artefact={tmp_path}/runs/0_prepare\n" in (tmp_path / "notes").read_text()


@pytest.mark.runs("plan", "--dry-start")
def test_a_stage_starts_dry(tmp_path):
    assert "recipes/tiny" not in call(
        "plan", "recipes/tiny/3_filter.yaml", "--dry-start", f"runs_dir={tmp_path}"
    )


@pytest.mark.runs("score", "--from", "--policy", "--vote", "--partial", "--details", "--compare")
@pytest.mark.runs("score", "--table", "--name", "--page", "--tasks", "--json", "--debug")
def test_scores(tmp_path):
    def log(name, text):
        rows = [
            Verdict("rewardbench", subset, "1", None, "chosen_first", None, False, False, "unread", 1, text)
            for subset in rewardbench.ITEMS
        ]
        write_jsonl(tmp_path / name, rows)
        return tmp_path / name

    right, wrong = log("right.jsonl", "[[A]]"), log("wrong.jsonl", "[[B]]")
    write_jsonl(tmp_path / "tasks.jsonl", list[BenchmarkTask]())
    text = call(
        "score", "rewardbench", right, "--compare", wrong, "--details", "--vote", "majority", "--debug"
    )
    assert "right against wrong" in text
    table = call("score", "rewardbench", wrong, "--table", "latex", "--name", "a_b", "--partial")
    assert r"a\_b" in table
    page = ["--page", tmp_path / "page.md", "--tasks", tmp_path / "tasks.jsonl"]
    data = json.loads(call("score", "rewardbench", wrong, "--json", "--policy", "last", *page))
    assert data["scores"]["Score"]["value"] == 0 and "Worst" in (tmp_path / "page.md").read_text()
    foreign = tmp_path / "rewardbench.json"
    foreign.write_text(json.dumps([{"subset": s, "id": 1, "results": 1} for s in rewardbench.ITEMS]))
    assert json.loads(call("score", "--from", "rewardbench", foreign, "--json"))["scores"]


def test_each_command_explains_itself():
    for name in ["", *main.commands]:
        for option in ("-h", "--help"):
            assert "Usage: " in call(*filter(None, [name, option]))
    assert "reasongrm" in call("--version")


@pytest.mark.parametrize("program", HELPED)
def test_programs_explain_themselves(program, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [program, "--help"])
    monkeypatch.setattr(sys, "path", [str((ROOT / program).parent), *sys.path])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / program), run_name="__main__")
    assert end.value.code == 0 and "usage: " in capsys.readouterr().out.lower()


@pytest.mark.runs("scripts/check_yaml.py")
@pytest.mark.runs("scripts/tiny_tokenizer.py")
@pytest.mark.runs("launch/site.env.example")
@pytest.mark.runs("-m reasongrm_nemo")
def test_small_programs(tmp_path):
    def run(*words):
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([*map(str, words)], check=True, capture_output=True, cwd=ROOT, env=env)

    run(sys.executable, ROOT / "scripts/check_yaml.py", ROOT / "recipes/base/common.yaml")
    run(sys.executable, ROOT / "scripts/tiny_tokenizer.py", tmp_path)
    shipped = ROOT / "reasongrm_nemo/assets/tiny_judge/tokenizer.json"
    assert (tmp_path / "tokenizer.json").read_text() == shipped.read_text()
    run("bash", "-euc", 'set -a; . "$0"', ROOT / "launch/site.env.example")
    run(sys.executable, "-m", "reasongrm_nemo", "--version")

# SPDX-License-Identifier: Apache-2.0
"""Options of `reasongrm plan`: impossible combinations are refused, and none is silently ignored."""

import json

import pytest
from click.testing import CliRunner

from reasongrm_nemo.cli import main
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.plan.rollouts.lengths import read_paths

GRPO = "recipes/qwq_32b/1_grpo_zero.yaml"
PREPARE = "recipes/qwq_32b/0_prepare.yaml"
PATH = {"task_id": "é", "reasoning_tokens": 3, "answer_tokens": 2, "finish_reason": "stop"}


def call(*words):
    return CliRunner().invoke(main, ["plan", *map(str, words)])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ["--sweep", "tp"],
        ["--sweep", ""],
        ["--simulate"],
        ["--rollouts"],
        ["--lengths", "paths.jsonl"],
        ["--plot", "step.png"],
    ],
)
def test_options_for_a_single_recipe_are_refused_for_a_folder(words):
    told = call("recipes/qwq_32b", *words)
    assert told.exit_code == 2 and told.stdout == ""
    assert told.stderr.startswith(
        f"reasongrm: {words[0]} works on a single recipe, but recipes/qwq_32b is a folder"
    )


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--rollouts", "--sweep", "tp"], "--sweep, --rollouts"),
        (["--simulate", "--rollouts"], "--simulate, --rollouts"),
        (["--simulate", "--lengths", "paths.jsonl"], "--simulate, --lengths"),
        (["--sweep", "tp", "--plot", "step.png"], "--sweep, --plot"),
        (["--sweep", "tp", "--simulate"], "--sweep, --simulate"),
        (["--dry-start", "--sweep", "tp"], "--dry-start, --sweep"),
        (["--dry-start", "--simulate"], "--dry-start, --simulate"),
    ],
)
def test_options_that_exclude_each_other_are_refused(words, named):
    told = call(GRPO, *words)
    assert told.exit_code == 2 and told.stdout == ""
    assert told.stderr.startswith(f"reasongrm: {named} cannot be combined; give one")


def test_a_sweep_without_axes_and_a_stage_without_a_trainer_are_refused():
    assert call(GRPO, "--sweep", "").stderr.startswith('reasongrm: --sweep: "" is not an axis')
    for words, says in (
        (["--sweep", "tp"], "--sweep: stage prepare trains nothing, so it has no layouts to compare"),
        (["--simulate"], "--simulate: stage prepare trains nothing, so it has no step to simulate"),
    ):
        told = call(PREPARE, *words)
        assert told.exit_code == 2 and told.stderr == f"reasongrm: {says}\n"
    told = call("recipes/qwq_32b/2_generate.yaml", "--simulate")
    assert told.exit_code == 2 and "stage generate trains nothing" in told.stderr


def test_lengths_from_a_binary_a_folder_or_nowhere_are_refused_in_a_sentence(tmp_path):
    binary, folder = tmp_path / "binary", tmp_path / "folder"
    binary.write_bytes(b"\x7fELF\x02\xff\xfe\n\x80")
    folder.mkdir()
    with pytest.raises(
        UserError, match=r"--lengths \(a generate stage's paths\.jsonl\): \S+binary:1: not a JSON line"
    ):
        read_paths(binary)
    with pytest.raises(UserError, match=r"paths\.jsonl\): \S+folder: cannot be read \(Is a directory\)"):
        read_paths(folder)
    with pytest.raises(UserError, match=r"paths\.jsonl\): \S+none: no such file"):
        read_paths(tmp_path / "none")
    (tmp_path / "paths.jsonl").write_text(json.dumps(PATH, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_paths(tmp_path / "paths.jsonl") == ([[6]], [[False]])


def test_a_plot_is_not_written_over_a_folder(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    told = call(GRPO, "grpo.prompts_per_step=2", "grpo.global_batch=16", "--plot", folder)
    assert told.exit_code == 2 and f"--plot: {folder} is a folder" in told.stderr
    assert not folder.with_suffix(".png").exists()


@pytest.mark.parametrize("recipe", [GRPO, "recipes/qwq_32b"])
def test_a_plan_config_folder_without_a_config_is_refused(recipe):
    told = call(recipe, "plan.config=/nowhere/at/all")
    assert told.exit_code == 2 and told.stderr.count("\n") == 1
    assert "no config.json is in model.hf_path models/QwQ-32B or plan.config /nowhere/at/all" in told.stderr


def test_an_unknown_shape_cannot_be_simulated():
    told = call(GRPO, "plan.config=null", "--simulate")
    assert told.exit_code == 2 and "the model's shape is unknown" in told.stderr

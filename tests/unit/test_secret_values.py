# SPDX-License-Identifier: Apache-2.0
"""Secrets in the server's environment reach the server, but no manifest, log, printed plan or error."""

import json
import os
import sys

import pytest
from click.testing import CliRunner

from reasongrm_nemo.cli import main
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.processes import secret_values
from reasongrm_nemo.processes.work_order import WorkOrder
from reasongrm_nemo.recipe.load import load_recipe, recipes_root
from reasongrm_nemo.rollout import RolloutServer, RolloutSettings
from reasongrm_nemo.rollout.server.vllm_log import last_words
from reasongrm_nemo.run.manifest import identity
from reasongrm_nemo.slurm.jobs import pipeline_jobs
from reasongrm_nemo.stages import filter as filter_stage

GENERATE = recipes_root() / "tiny" / "2_generate.yaml"
SECRETS = {
    "HF_TOKEN": "open-sesame-1",
    "WANDB_API_KEY": "open-sesame-2",
    "KEY": "open-sesame-3",
    "DB_PASSWORD_FILE": "open-sesame-4",
    "my_secret_thing": "open-sesame-5",
    "AWS_ACCESS_KEY_ID": "open-sesame-6",
    "GOOGLE_APPLICATION_CREDENTIALS": "open-sesame-7",
    "OLD_PASSWD": "open-sesame-8",
    "https_proxy": "http://user:open-sesame-9@proxy:8080",
    "INDEX": "https://open-sesame-10@host/simple",
    "ENDPOINT": "https://host/x?access_token=open-sesame-11",
    "HARMLESS": "hf_opensesame12opensesame12",
    "HEADER": "Bearer open-sesame-13",
    "SSH_PASS": "open-sesame-14",
    "token": "open-sesame-15",
    "GITHUB_PAT": "open-sesame-16",
    "X_CREDS": "open-sesame-17",
    "APIKEY": "open-sesame-18",
    "GPG_PASSPHRASE": "open-sesame-19",
    "SESSION_COOKIE": "open-sesame-20",
}
PLAIN = {
    "MAX_TOKENS": "5",
    "TOKENIZERS_PARALLELISM": "false",
    "KEYBOARD": "us",
    "NCCL_DEBUG": "INFO",
    "LD_PRELOAD": "/opt/lib.so",
    "HF_ENDPOINT": "https://hub.example:8443/a@b",
    "OMP_NUM_THREADS": "1",
    "MONKEY": "x",
    "AUTHOR": "me",
    "EMPTY_TOKEN": "",
}


def tells(text):
    return [value for value in ("sesame", "opensesame") if value in text]


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    env = json.dumps(SECRETS | PLAIN)
    path.write_text(
        f"defaults: [tiny/2_generate]\nruns_dir: {tmp_path}/runs\nrollout: {{extra_env: {env}}}\n"
    )
    return path


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(secret_values, "_kept", {})


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_replaced_by_a_placeholder(name):
    stand_in = secret_values.hide(name, SECRETS[name])
    assert stand_in == f"<secret {name}>" == secret_values.hide(name, SECRETS[name])
    assert secret_values.reveal(stand_in, "k") == SECRETS[name]
    assert not tells(secret_values.strike(f"x{SECRETS[name]}y"))
    assert secret_values.hide(name, "another " + SECRETS[name]) in (
        f"<secret {name} 2>",
        "another " + SECRETS[name],
    )


@pytest.mark.parametrize("name", PLAIN)
def test_other_values_stay(name):
    assert secret_values.hide(name, PLAIN[name]) == PLAIN[name]


def test_the_recipe_has_placeholders_and_the_server_the_values(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("REASONGRM_ROLLOUT_PYTHON", sys.executable)
    cfg = load_recipe(recipe)
    assert not tells(str(cfg)) and cfg.rollout.extra_env.MAX_TOKENS == "5"
    settings = RolloutSettings.from_config(cfg)
    assert settings.extra_env == SECRETS | PLAIN
    assert settings.environment("t").items() >= (SECRETS | PLAIN).items()
    assert not tells(" ".join(settings.arguments(tmp_path, 1)))
    order = WorkOrder(cfg, tmp_path, tmp_path, {}).write()
    assert not tells(order.read_text())
    assert "rollout.extra_env.HF_TOKEN" not in identity(cfg, {})
    # in another process, from a manifest's recipe
    secret_values._kept.clear()
    with pytest.raises(UserError, match=r"rollout\.extra_env\.HF_TOKEN is the placeholder <secret HF_TOKEN>"):
        RolloutSettings.from_config(cfg)


def test_a_stopped_server_leaves_no_secret_in_its_file(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("REASONGRM_ROLLOUT_PYTHON", sys.executable)
    server = RolloutServer(RolloutSettings.from_config(load_recipe(recipe)), tmp_path, tmp_path / "s.log")
    assert not tells(server.spec().read_text())
    server._write(settings=server.settings.to_dict(), pid=2**22 + 1, ticks=1)
    assert RolloutServer.from_spec(server.spec()).settings == server.settings
    server.stop()
    assert not tells(server.spec().read_text())


def test_printed_and_stored_output_has_no_secret(recipe, tmp_path, monkeypatch, capsys):
    for words in (["plan", str(recipe), "--no-check"], ["plan", str(recipe), "--no-check", "--json"]):
        told = CliRunner().invoke(main, words)
        assert told.exit_code == 0, told.stderr
        assert "<secret HF_TOKEN>" in told.stdout and not tells(told.output)

    def run(ctx):
        ctx.log.info("the server said %s", SECRETS["HF_TOKEN"])
        ctx.console.line(f"it said {SECRETS['https_proxy']}")
        raise UserError(f"refused {SECRETS['HF_TOKEN']}\x1b[2J")

    path = tmp_path / "3_filter.yaml"
    (tmp_path / "x").touch()
    env = json.dumps(SECRETS)
    path.write_text(
        f"defaults: [base/filter]\ninputs: {{paths: {tmp_path}/x, tasks: {tmp_path}/x}}\n"
        f"runs_dir: {tmp_path}/runs\nrollout: {{extra_env: {env}}}\n"
    )
    monkeypatch.setattr(filter_stage, "run", run)
    told = CliRunner().invoke(main, ["run", str(path)])
    assert told.exit_code == 2 and not tells(told.output)
    assert "refused <secret HF_TOKEN>\\x1b[2J" in told.stderr and "\x1b" not in told.stderr
    monkeypatch.setattr(filter_stage, "run", lambda ctx: {"said": "nothing"})
    assert CliRunner().invoke(main, ["run", str(path)]).exit_code == 0
    files = [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]
    assert any(file.name == "manifest.json" for file in files) and any(
        file.name == "stage.log" for file in files
    )
    assert not [file for file in files if tells(file.read_text())]


def test_an_older_artefact_is_shown_without_secrets():
    kept = {"rollout": {"extra_env": {"HF_TOKEN": "open-sesame", "A": "b"}, "port": None}, "seed": 1}
    shown = secret_values.masked(kept)
    assert shown["rollout"] == {"extra_env": {"HF_TOKEN": "<secret HF_TOKEN>", "A": "b"}, "port": None}
    assert secret_values.masked({"seed": 1}) == {"seed": 1} and secret_values.masked(None) is None


def test_errors_contain_no_secret(tmp_path, recipe):
    load_recipe(recipe)
    log = tmp_path / "server.log"
    log.write_text(f"ERROR 01-01 00:00:00 [a.py:1] ValueError: {SECRETS['HF_TOKEN']} is wrong\n")
    assert last_words(log) == "ValueError: <secret HF_TOKEN> is wrong"
    for word in ("rollout.extra_env.HF_TOKEN='open-sesame", "rollout.extra_env.HF_TOKEN=[open-sesame]"):
        with pytest.raises(UserError) as caught:
            load_recipe(recipe, [word])
        assert not tells(str(caught.value)), word


def test_an_argument_of_a_job_contains_no_secret(tmp_path):
    words = [f"runs_dir={tmp_path}", "2_generate:rollout.extra_env={A: b, HF_TOKEN: open-sesame}"]
    with pytest.raises(UserError, match="every user of the cluster can see") as caught:
        pipeline_jobs(GENERATE.parent, words, 1, None, None, False)
    assert not tells(str(caught.value))
    os.environ["VISIBLE_TEST"] = "open-sesame"
    try:
        words[1] = "2_generate:rollout.extra_env.HF_TOKEN=${oc.env:VISIBLE_TEST}"
        jobs = pipeline_jobs(GENERATE.parent, words, 1, None, None, False)
        assert not tells(json.dumps(jobs)) and "oc.env" in json.dumps(jobs)
        assert not tells(str(load_recipe(GENERATE, [words[1].partition(":")[2]])))
    finally:
        del os.environ["VISIBLE_TEST"]


@pytest.mark.parametrize(
    "word",
    [
        "tracking.mlflow_uri=http://me:open-sesame@host:5000",
        "tracking.mlflow_uri=https://open-sesame@host",
        "inputs.tasks=https://host/x?token=open-sesame",
        "evaluate.note=see http://u:open-sesame@host",
    ],
)
def test_a_password_in_a_url_is_refused_outside_the_environment(word):
    stage = "7_evaluate" if word.startswith("evaluate") else "2_generate"
    with pytest.raises(UserError, match="has a name or password in its URL") as caught:
        load_recipe(recipes_root() / "tiny" / f"{stage}.yaml", [word])
    assert not tells(str(caught.value))

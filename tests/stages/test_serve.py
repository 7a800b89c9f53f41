# SPDX-License-Identifier: Apache-2.0
"""`reasongrm serve` with vLLM: asked over HTTP for a completion and a judgement, and ended by a signal."""

import json
import os
import signal
import threading
import urllib.error
import urllib.request

import pytest
from click.testing import CliRunner

from reasongrm_nemo.cli import main
from reasongrm_nemo.data.tasks import make_tasks
from reasongrm_nemo.demo.tiny_judge import questions
from reasongrm_nemo.judge import load_template, parse_verdict
from reasongrm_nemo.processes import child
from reasongrm_nemo.recipe.load import recipes_root
from reasongrm_nemo.run import serving
from reasongrm_nemo.run.console import Console

RECIPE = str(recipes_root() / "tiny" / "2_generate.yaml")


def post(server, path, body, token=None):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token or server.token}"}
    asked = urllib.request.Request(server.url + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)["choices"][0]


class Client(threading.Thread):
    """Asks while the command waits in the main thread, and then sends it SIGTERM."""

    def __init__(self, servers):
        super().__init__(daemon=True)
        (self.server,), self.answers = servers, {}

    def run(self):
        try:
            self.ask()
        except BaseException as error:
            self.answers["error"] = error
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    def ask(self):
        answers, server = self.answers, self.server
        answers["pid"] = server.state()["pid"]
        (pair,) = questions(1, 1, "validation")
        (task,) = make_tasks([pair], 1, load_template("tiny"), False)
        text = {"model": "policy", "prompt": "Q:a=1;b=a+2;b?", "max_tokens": 4, "temperature": 0}
        answers["completion"] = post(server, "/v1/completions", text)["text"]
        chat = {"model": "policy", "messages": list(task.messages), "max_tokens": 150, "temperature": 0}
        answers["judgement"] = post(server, "/v1/chat/completions", chat)["message"]["content"]
        try:
            post(server, "/v1/completions", text, "another")
        except urllib.error.HTTPError as refused:
            answers["stranger"] = refused.code


@pytest.mark.runs("serve", "--json", "--debug")
def test_serve_answers_until_terminated(tmp_path, monkeypatch, rollout_python):
    clients, watch = [], serving.watch

    def watched(servers):
        clients.append(Client(servers))
        clients[0].start()
        watch(servers)

    monkeypatch.setattr(serving, "watch", watched)
    words = ["model.hf_path=asset:tiny_judge", f"runs_dir={tmp_path}", "rollout.start_timeout_s=500"]
    told = CliRunner().invoke(main, ["serve", RECIPE, *words, "--json", "--debug"])
    assert told.exit_code == 0, told.output
    answers = clients[0].answers
    assert "error" not in answers, answers
    said = json.loads(told.stdout)
    assert said["url"].startswith("http://127.0.0.1:") and said["model"] == "policy" and said["token"]
    assert answers["completion"] and answers["stranger"] == 401
    assert parse_verdict(answers["judgement"], "last").verdict in ("A", "B"), answers["judgement"]
    assert not child._group(answers["pid"], 0), "no process is left"
    (spec,) = tmp_path.rglob("*.spec.json")
    assert said["token"] not in spec.read_text()


def test_the_command_ends_when_a_server_dies(tmp_path, monkeypatch):
    """With a stand-in for vLLM. Otherwise the command would wait for a dead server."""

    class Server:
        url, token, model_dir, settings = "http://127.0.0.1:1", "t", tmp_path, None

        def is_alive(self):
            return False

        def check(self):
            from reasongrm_nemo.rollout import RolloutServerLost

            raise RolloutServerLost("The rollout server (process 7) was killed by SIGKILL.")

    class Pool:
        def __init__(self, log_dir, console):
            assert isinstance(console, Console) and log_dir.name.startswith("serve-")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def get(self, cfg, model):
            self.servers = [Server(), Server()]
            return self

    monkeypatch.setattr(serving, "RolloutPool", Pool)
    words = ["model.hf_path=asset:tiny_judge", f"runs_dir={tmp_path}"]
    told = CliRunner().invoke(main, ["serve", RECIPE, *words])
    assert told.exit_code == 2
    assert told.stderr == "reasongrm: The rollout server (process 7) was killed by SIGKILL.\n"
    assert told.stdout.count('(Authorization: Bearer t; model "policy")\n') == 2

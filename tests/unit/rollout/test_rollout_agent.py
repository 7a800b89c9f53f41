# SPDX-License-Identifier: Apache-2.0
"""A rollout server on another node; here its agent is a child process, as srun's task is there."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from standin_vllm import ROOT

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.rollout import RolloutServer, RolloutServerLost
from reasongrm_nemo.rollout.http import call
from reasongrm_nemo.rollout.server.hosts import AgentStep


@pytest.fixture
def agent(make, tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    settings = make().settings
    step = AgentStep(AGENT, settings, "node7", tmp_path / "logs" / "server.log", 20)
    yield step
    step.close()


AGENT = [sys.executable, "-m", "reasongrm_nemo.rollout.server.agent"]


def test_a_server_on_a_node_is_started_watched_and_ended_through_its_agent(make, agent):
    server = make(host=agent.host)
    with server:
        server.check()
        other = RolloutServer.from_spec(server.spec())  # a trainer rank's handle
        pid = other.state()["pid"]
        assert other.is_alive() and Path(f"/proc/{pid}").exists()
        os.kill(pid, signal.SIGKILL)
        while other.is_alive():
            time.sleep(0.02)
        with pytest.raises(RolloutServerLost, match="was killed by SIGKILL"):
            other.check()
        other.restart()
        server.check()
        assert server.starts == 2
        again = server.state()["pid"]
    assert not Path(f"/proc/{again}").exists()


def test_the_end_of_the_run_ends_agent_and_server(make, agent):
    server = make(host=agent.host)
    server.start()
    pid = server.state()["pid"]
    agent.close()
    assert not Path(f"/proc/{pid}").exists()
    assert not server.is_alive()
    with pytest.raises(RolloutServerLost, match="is gone with its node node7"):
        server.check()


def test_an_agent_obeys_its_token_alone_and_starts_only_servers(agent):
    url, token = agent.host.url, agent.host.token
    for path, known, status in (("/start", "wrong", 401), ("/spawn", token, 404)):
        with pytest.raises(RolloutServerLost, match=f"status {status}"):
            call(url, known, "POST", path, 5, {"command": ["true"]})
    with pytest.raises(RolloutServerLost, match="status 500"):
        call(url, token, "POST", "/start", 5, {"command": ["true"]})


def test_an_agent_that_does_not_start_says_why(make, tmp_path):
    (tmp_path / "logs").mkdir(exist_ok=True)
    command = ["sh", "-c", "echo srun: error: no such node >&2"]
    with pytest.raises(UserError, match=r"did not start on node7 .*srun: error: no such node"):
        AgentStep(command, make().settings, "node7", tmp_path / "logs" / "server.log", 20)

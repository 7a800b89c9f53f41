# SPDX-License-Identifier: Apache-2.0
"""The servers of a run: one log each, passed from stage to stage, stopped when a recipe needs others."""

import io
import os

import pytest

from reasongrm_nemo.recipe.load import load_recipe, recipes_root
from reasongrm_nemo.rollout.server.settings import PYTHON_VARIABLE
from reasongrm_nemo.run import rollout_pool
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.rollout_pool import RolloutPool

made = []


class Server:
    """A stand-in server handle that records its calls."""

    def __init__(self, settings, model_dir, log, host=None):
        self.settings, self.log, self.events = settings, log, []
        made.append(self)

    def use(self, model_dir):
        self.events.append(model_dir.name)

    def stop(self):
        self.events.append("stop")


@pytest.fixture
def pool(tmp_path, monkeypatch):
    monkeypatch.setattr(rollout_pool, "RolloutServer", Server)
    monkeypatch.setenv(PYTHON_VARIABLE, os.sys.executable)
    made.clear()
    return RolloutPool(tmp_path / "logs", Console())


def recipe(*overrides):
    return load_recipe(recipes_root() / "tiny" / "2_generate.yaml", overrides)


def test_every_server_has_its_own_log(pool, tmp_path, capsys):
    rollouts = pool.get(recipe("rollout.servers=3"), tmp_path / "a")
    assert [server.log.name for server in rollouts.servers] == [
        "rollout-server.log",
        "rollout-server-2.log",
        "rollout-server-3.log",
    ]
    assert [server.settings.servers for server in rollouts.servers] == [3, 3, 3]


def test_servers_are_reused_or_stopped(pool, tmp_path):
    with pool:
        first = pool.get(recipe("rollout.servers=2"), tmp_path / "a")
        assert pool.get(recipe("rollout.servers=2", "seed=5"), tmp_path / "b") is first
        assert [server.events for server in made] == [["a", "b"]] * 2
        other = pool.get(recipe(), tmp_path / "c")
        assert other is not first and len(other.servers) == 1
        assert [server.events for server in made] == [["a", "b", "stop"]] * 2 + [["c"]]
    assert made[-1].events == ["c", "stop"]


def test_a_lost_server_is_reported_to_the_stage_that_uses_it(pool, tmp_path):
    pool.console = Console(io.StringIO())
    rollouts = pool.get(recipe("rollout.servers=2"), tmp_path / "a")
    rollouts.tell("gone")
    told = []
    pool.on_loss = told.append
    made[1].on_failed_start("it ended")
    assert told == ["it ended"] and rollouts.losses == ["gone", "it ended"]
    assert "warning: a rollout server was lost and is being restarted: gone" in pool.console.stream.getvalue()

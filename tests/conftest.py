# SPDX-License-Identifier: Apache-2.0
"""What all tests share. Imports neither torch nor NeMo nor vLLM: unit tests of the pure layer need none."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import success
from forked import ROOT, Forker

from reasongrm_nemo.processes.cpu_memory import KEEPS_FREED

# Before anything imports torch: ranks and a server share the machine, and each would take every core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test may reach for the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test the marker of its folder: unit, parallel, stages, slurm."""
    for item in items:
        if item.path.is_relative_to(TESTS):
            item.add_marker(item.path.relative_to(TESTS).parts[0])


@pytest.fixture(autouse=True)
def _runs(request, monkeypatch):
    """A test marked ``runs`` must run what the mark says to success (see success.py)."""
    wanted = set(success.claimed(request.node))
    if not wanted:
        yield
        return
    success.recorded.clear()
    success.watch(monkeypatch)
    yield
    if getattr(request.node, "passed", False):
        missing = sorted(" ".join(filter(None, claim)) for claim in wanted - success.recorded)
        assert not missing, f"marked as run to success, and was not: {', '.join(missing)}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Tell `_runs` whether the test itself passed."""
    outcome = yield
    if call.when == "call":
        item.passed = outcome.get_result().passed


@pytest.fixture(scope="session")
def rollout_python() -> Path:
    """The rollout environment's interpreter; a missing one is an error, never a skip."""
    value = os.environ.get("REASONGRM_ROLLOUT_PYTHON")
    if not value or not Path(value).is_file():
        pytest.fail(
            f"REASONGRM_ROLLOUT_PYTHON is {value or 'not set'}: run `make setup`, then `. .envs/env.sh` "
            "(make test does both)"
        )
    return Path(value)


@pytest.fixture(scope="session")
def container_python() -> Path:
    """The interpreter with the versions of NeMo's container; without a Python 3.12 the test is skipped.

    `make test` has started to build the environment; this waits for it.
    """
    if sys.version_info[:2] == (3, 12):  # make test-container
        return Path(sys.executable)
    command = [sys.executable, str(ROOT / "scripts" / "setup_env.py"), "--container"]
    built = subprocess.run(command, capture_output=True, text=True)
    if "no Python 3.12" in built.stderr:
        pytest.skip(built.stderr.strip())
    assert built.returncode == 0, built.stdout + built.stderr
    return ROOT / ".envs" / "container" / "bin" / "python"


@contextlib.contextmanager
def ranks_forker(python):
    """The process of this interpreter that ranks are forked from (see forked.py)."""
    env = os.environ | KEEPS_FREED | {"OMP_NUM_THREADS": "1"}
    env |= {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    with Forker(env, ["rank_imports"], python) as forker:
        forker.env = env
        yield forker


@pytest.fixture(scope="session")
def forker():
    """The process that ranks are forked from."""
    with ranks_forker(sys.executable) as forker:
        yield forker


@pytest.fixture(scope="session")
def launch(forker, tmp_path_factory):
    """``launch(script_or_module, ranks, *arguments, **environment)`` on CPU; fails with the ranks' output."""
    return launcher(forker, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="session")
def launch_in_container(container_python, tmp_path_factory):
    """Like ``launch``, with the versions of NeMo's container."""
    with ranks_forker(container_python) as forker:
        yield launcher(forker, tmp_path_factory.mktemp("container"))


def launcher(forker, logs):
    """A ``launch`` that forks ranks from `forker` and writes logs to `logs`."""

    def run(program, count, *arguments, **env):
        log = logs / f"{len(list(logs.iterdir()))}.log"
        port = free_port()
        ranks = [
            forker.start(program, arguments, forker.env | env | rank_environment(rank, count, port), log)
            for rank in range(count)
        ]
        while any(rank.poll() is None for rank in ranks):
            if any(rank.returncode for rank in ranks):  # the others would wait for the failed rank
                for rank in ranks:
                    rank.kill()
            time.sleep(0.01)
        assert not any(rank.returncode for rank in ranks), log.read_text()[-6000:]
        if not program.endswith(".py"):
            success.note(f"-m {program}")

    return run


def rank_environment(rank, count, port):
    """The variables that torchrun would set."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": str(port),
        "REASONGRM_RUN_KEY": "these ranks",
    }


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

# SPDX-License-Identifier: Apache-2.0
"""Files of a server's processes in TMPDIR and /dev/shm are removed, even if all are killed at once."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from reasongrm_nemo.processes import scratch
from reasongrm_nemo.processes.child import start_ticks
from reasongrm_nemo.rollout.server.hosts import ThisMachine

ROOT = Path(__file__).parents[3]
# As vLLM does: files in TMPDIR, and a semaphore that a child of a spawn context could open by its name.
LEAVES = """
import multiprocessing, tempfile, time
from reasongrm_nemo.processes import meeting, scratch
file = meeting.PrivateFile()
scratch.enter()
tempfile.mkstemp("socket")
lock = multiprocessing.get_context("spawn").Lock()
print(tempfile.gettempdir(), flush=True)
time.sleep(60)
"""


@pytest.fixture
def shallow(monkeypatch):
    """A folder for temporary files whose path is short enough for sockets, unlike pytest's."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture
def leave(shallow):
    """Starts a process with its own scratch folder; returns both."""
    env = os.environ | {"TMPDIR": str(shallow), "PYTHONPATH": str(ROOT)}
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", LEAVES], env=env, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        return process, Path(process.stdout.readline().strip())

    yield start
    for process in started:
        process.kill()
        process.communicate()


def semaphores(folder):
    return list(Path("/dev/shm").glob(f"sem.{folder.name}-*"))


def meetings(base):
    return list(base.glob("reasongrm-meeting-*"))


def test_files_of_a_killed_server_go_and_those_of_a_living_one_stay(leave, shallow):
    (killed, left), (_, kept) = leave(), leave()
    assert left.parent == shallow and len(list(left.iterdir())) == 1
    assert len(meetings(shallow)) == 2
    assert len(semaphores(left)) == len(semaphores(kept)) == 1
    (shallow / "reasongrm-server-mine.txt").touch()  # a file, so not a scratch folder
    os.killpg(killed.pid, signal.SIGKILL)
    ThisMachine().end_group(killed.pid, start_ticks(killed.pid), 0)
    killed.wait()
    deadline = time.monotonic() + 10
    while left.exists() and time.monotonic() < deadline:
        scratch.sweep_dead_folders()  # what the next server does first
    assert not left.exists() and not semaphores(left)
    assert len(meetings(shallow)) == 1
    assert len(list(kept.iterdir())) == 1 and len(semaphores(kept)) == 1


def test_tmp_is_used_if_the_temporary_folder_is_too_deep_for_sockets(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert scratch._base() == "/tmp"
    monkeypatch.setattr(tempfile, "tempdir", "/var/tmp")
    assert scratch._base() == "/var/tmp"
    assert len(f"/var/tmp/{scratch._SERVER}12345678/82e8f3c0-2203-47aa-a27e-2f1c4f6407aa") < 108

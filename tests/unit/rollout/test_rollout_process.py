# SPDX-License-Identifier: Apache-2.0
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from reasongrm_nemo.processes import child

ROOT = Path(__file__).parents[3]
ENV = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
# A leader that starts one helper, prints both process ids and waits; "deaf" ignores SIGTERM.
LEADER = """
import signal, subprocess, sys, time
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
import os
print(os.getpid(), helper.pid, flush=True)
time.sleep(60)
"""


def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def running(pid):
    fields = child._stat(pid)
    return fields is not None and fields[0] != "Z"


def spawn(log, *words):
    pid = child.spawn([sys.executable, "-c", LEADER, *words], ENV, log)
    until(lambda: len(log.read_text().split()) == 2)
    leader, helper = map(int, log.read_text().split())
    assert leader == pid  # the spawned process became the command
    return pid, helper


@pytest.mark.parametrize("words", [(), ("deaf",)])
def test_end_group_ends_the_leader_and_its_helper(tmp_path, words):
    pid, helper = spawn(tmp_path / "log", *words)
    ticks = child.start_ticks(pid)
    assert child.alive(pid, ticks) and not child.alive(pid, ticks + 1)
    child.end_group(pid, ticks, grace_s=0.5)
    assert not running(pid) and not running(helper)
    child.end_group(pid, ticks, grace_s=0.5)  # again: nothing to do


def test_end_group_ends_a_stopped_helper_whose_leader_is_dead(tmp_path):
    pid, helper = spawn(tmp_path / "log")
    ticks = child.start_ticks(pid)
    os.kill(helper, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not child.alive(pid, ticks))
    assert child.exit_cause(pid) == "was killed by SIGKILL, probably out of memory"
    assert running(helper)
    child.end_group(pid, ticks, grace_s=5)
    assert not running(helper)


def test_a_child_outlives_the_thread_that_spawned_it(tmp_path):
    got = []
    thread = threading.Thread(target=lambda: got.append(spawn(tmp_path / "log")))
    thread.start()
    thread.join()
    time.sleep(0.3)
    pid, _ = got[0]
    ticks = child.start_ticks(pid)
    assert child.alive(pid, ticks)
    child.end_group(pid, ticks, 0)


def test_a_child_dies_with_a_killed_parent(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from reasongrm_nemo.processes import child\n"
        "print(child.spawn([sys.executable, '-c', 'import time; time.sleep(60)'], "
        f"{ENV!r}, Path(sys.argv[1])), flush=True)\n"
        "time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "log")], env=ENV, stdout=subprocess.PIPE, text=True
    )
    pid = int(parent.stdout.readline())
    time.sleep(0.5)  # until the child has tied itself to its parent
    assert running(pid)
    parent.kill()
    parent.wait()
    until(lambda: not running(pid))


def test_a_child_dies_if_its_parent_is_already_gone(tmp_path):
    command = [sys.executable, "-m", child.__name__, "1", sys.executable, "-c", "print('lived')"]
    if os.getppid() == 1:
        command[3] = "2"
    done = subprocess.run(command, env=ENV, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == ""


def test_spawn_says_when_there_is_no_such_interpreter(tmp_path):
    with pytest.raises(FileNotFoundError):
        child.spawn([str(tmp_path / "python")], ENV, tmp_path / "log")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (-9, "was killed by SIGKILL, probably out of memory"),
        (137, "was killed by SIGKILL, probably out of memory"),
        (-15, "was killed by SIGTERM"),
        (143, "was killed by SIGTERM"),
        (-11, "was killed by SIGSEGV"),
        (139, "was killed by SIGSEGV"),
        (134, "was killed by SIGABRT"),
        (-7, "was killed by SIGBUS, probably as /dev/shm or a file's disk is full"),
        (-34, "was killed by SIGRTMIN"),
        (-63, "ended with status -63"),
        (0, "ended with status 0"),
        (1, "ended with status 1"),
        (7, "ended with status 7"),
        (127, "ended with status 127"),
        (128, "ended with status 128"),
        (255, "ended with status 255"),
    ],
)
def test_an_exit_status_in_words(code, says):
    assert child.describe_exit(code) == says

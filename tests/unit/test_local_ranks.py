# SPDX-License-Identifier: Apache-2.0
"""Ranks on one machine: their environment, the cause of a failure, and that no process survives."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reasongrm_nemo.run import local_ranks
from reasongrm_nemo.run.local_ranks import LocalRanks
from reasongrm_nemo.run.trainer_ranks import _cause

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """``start(code, count)``; whatever still runs is ended after the test."""
    monkeypatch.setattr(local_ranks, "_LAST_WORDS_S", 0.2)
    monkeypatch.setattr(local_ranks, "_GRACE_S", 1.0)
    started = []

    def begin(code, count=2, **env):
        begin.log = tmp_path / "log"
        ranks = LocalRanks([sys.executable, "-c", code], count, os.environ | env, begin.log)
        started.append(ranks)
        return ranks

    yield begin
    for ranks in started:
        ranks.end()


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
    except OSError:
        return True


def wait_for(path):
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_each_rank_knows_its_number_and_they_meet_in_a_private_folder(start, tmp_path):
    code = "import json, os\n"
    code += "open(os.environ['OUT'] + os.environ['RANK'], 'w').write(json.dumps(dict(os.environ)))\n"
    code += "print(oct(os.stat(os.path.dirname(os.environ['REASONGRM_MEETING'])).st_mode), flush=True)"
    variables = {"GLOO_SOCKET_IFNAME": "eth0", "OUT": str(tmp_path / "rank")}
    assert start(code, 3, **variables).wait(60) == 0
    told = [json.loads((tmp_path / f"rank{rank}").read_text()) for rank in range(3)]
    assert [(env["RANK"], env["LOCAL_RANK"], env["WORLD_SIZE"]) for env in told] == [
        (str(rank), str(rank), "3") for rank in range(3)
    ]
    assert {env["GLOO_SOCKET_IFNAME"] for env in told} == {"lo"}
    (key,) = {env["REASONGRM_RUN_KEY"] for env in told}
    (meeting,) = {env["REASONGRM_MEETING"] for env in told}
    assert len(key) == 64 and start.log.read_text().split() == ["0o40700"] * 3
    assert not Path(meeting).parent.exists()


WAITS = "import os, time\nif os.environ['RANK'] == '1': {}\ntime.sleep(100)"


@pytest.mark.parametrize(
    ("end", "code", "says"),
    [
        ("raise SystemExit(7)", 7, "rank 1 ended with status 7"),
        ("os.kill(os.getpid(), 9)", -9, "rank 1 was killed by SIGKILL, probably out of memory"),
    ],
)
def test_a_rank_that_fails_ends_the_others_and_is_named(start, tmp_path, end, code, says):
    ranks = start(WAITS.format(end), 3)
    assert ranks.wait(60) == code and ranks.first_failure == (1, code)
    assert ranks.codes == [-signal.SIGTERM, code, -signal.SIGTERM]
    failures = tmp_path / "failures.jsonl"
    assert _cause(failures, start.log, 0, code, ranks.first_failure).startswith(says)
    row = {"rank": 0, "time": 1.0, "user": False, "error": "lost its peer"}
    failures.write_text(json.dumps(row))
    assert _cause(failures, start.log, 0, code, ranks.first_failure).startswith(says)
    failures.write_text(json.dumps(row | {"rank": 1, "error": "its own words"}))
    assert _cause(failures, start.log, 0, code, ranks.first_failure).startswith("rank 1: its own words")


def test_of_two_ranks_lost_at_once_the_killed_one_is_the_first_failure(start):
    ranks = start("import os; os.environ['RANK'] == '0' and exit(1); os.kill(os.getpid(), 9)")
    for process in ranks._ranks:
        process.wait()
    assert ranks.poll() == -9 and ranks.first_failure == (1, -9)


def test_children_of_a_rank_end_with_it_and_deaf_ranks_are_killed(start, tmp_path):
    code = "import os, signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    code += "; child = subprocess.Popen(['sleep', '100']); open(os.environ['OUT'], 'w').write(str(child.pid))"
    ranks = start(
        code + "; os.rename(os.environ['OUT'], os.environ['OUT'] + '.whole'); time.sleep(100)",
        1,
        OUT=str(tmp_path / "child"),
    )
    wait_for(tmp_path / "child.whole")
    ranks.end()
    assert ranks.codes == [-signal.SIGKILL] and ranks.returncode == -signal.SIGKILL
    assert gone(int((tmp_path / "child.whole").read_text()))


def test_ranks_die_with_their_parent_but_not_of_sigusr1(tmp_path):
    code = "import os, sys, time; from pathlib import Path\n"
    code += "from reasongrm_nemo.run.local_ranks import LocalRanks\n"
    code += "rank = [sys.executable, '-c', 'import time; time.sleep(100)']\n"
    code += "ranks = LocalRanks(rank, 2, os.environ, Path(sys.argv[1]))\n"
    code += "print(*ranks.pids, flush=True); time.sleep(100)"
    env = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code, str(tmp_path / "log")]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        for pid in pids:
            os.kill(pid, signal.SIGUSR1)
        time.sleep(0.3)
        assert len(pids) == 2 and not any(map(gone, pids))
        parent.kill()
    end = time.monotonic() + 30
    while not all(map(gone, pids)):
        assert time.monotonic() < end
        time.sleep(0.02)

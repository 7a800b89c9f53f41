# SPDX-License-Identifier: Apache-2.0
"""Another user of the machine cannot make the ranks run code, whichever of their sockets it reaches."""

import os
import re
import sys
import time
from pathlib import Path

from listeners import descendants_of, listening, open_to_strangers
from stranger import as_nobody, attack

from reasongrm_nemo.run.local_ranks import LocalRanks

HERE, ROOT = Path(__file__).parent, Path(__file__).resolve().parents[2]


def test_a_stranger_who_writes_to_every_socket_of_the_ranks_achieves_nothing(tmp_path):
    marker, ready, log = tmp_path / "marker", tmp_path / "ready", tmp_path / "log"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(HERE / "talking_worker.py"), "4", str(ready)]
    ranks = LocalRanks(command, 2, env, log)
    try:
        while ranks.poll() is None and not ready.exists():
            time.sleep(0.05)
        sockets = {socket for pid in ranks.pids for socket in listening(descendants_of(pid))}
        assert not open_to_strangers(sockets, {"127.0.0.1"})
        ports = [int(re.search(r":(\d+)$", where)[1]) for _, where in sockets if where.startswith("tcp")]
        pid, said = as_nobody(lambda: attack(ports, marker))
        os.waitpid(pid, 0)
        assert ranks.wait(60) == 0, log.read_text()[-3000:]
    finally:
        ranks.end()
    assert not marker.exists(), "a stranger's pickle ran"
    assert ports and said.read() == "[]", "a store answers strangers"


def test_data_from_a_stranger_posing_as_a_rank_is_not_unpickled(launch, tmp_path):
    """Across nodes the store answers anyone who reaches its address, so anyone may pose as a rank."""
    launch(str(HERE / "stranger_worker.py"), 1, tmp_path / "marker")

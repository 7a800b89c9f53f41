# SPDX-License-Identifier: Apache-2.0
"""A zygote (see zygote.py) for each thread that asks for commands in forks."""

import json
import subprocess
import sys
import threading
from pathlib import Path

from chaos.runs import ROOT, environment

_MINE = threading.local()
_SECONDS = 180


def run(folder, words, script="", seconds=_SECONDS, **env):
    """(exit status or None, output) of a command in a fork."""
    if not hasattr(_MINE, "process"):
        _MINE.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py"))],
            env=environment(), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    log = folder / "output.log"
    order = {"script": script, "words": [str(word) for word in words], "folder": str(folder), "env": env}
    print(json.dumps(order | {"log": str(log), "seconds": seconds}), file=_MINE.process.stdin, flush=True)
    answer = _MINE.process.stdout.readline()
    status = json.loads(answer) if answer else -9
    return status, log.read_text(errors="replace") if log.exists() else ""

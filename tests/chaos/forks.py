# SPDX-License-Identifier: Apache-2.0
"""Commands in forks of one process, so that hundreds of them take minutes."""

import atexit
import functools
import subprocess
import threading

from forked import Forker

from chaos.runs import ROOT, environment

_SECONDS = 180
_MEMORY = 6 << 30
_LOCK = threading.Lock()


@functools.cache
def _forker():
    forker = Forker(environment(), ["chaos.command_imports"]).__enter__()
    atexit.register(forker.__exit__)
    return forker


def run(folder, words, script="", seconds=_SECONDS, **env):
    """(exit status or None, output) of `reasongrm` or a script of the checkout in a fork; None: it hung."""
    with _LOCK:
        forker = _forker()
    log = folder / "output.log"
    log.unlink(missing_ok=True)
    process = forker.start(
        ROOT / script if script else "reasongrm_nemo", words, environment(**env), log, folder=folder,
        imports=["reasongrm_nemo.megatron.weights.convert"] if script else [], memory=_MEMORY,
    )  # fmt: skip
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        status = None
    return status, log.read_text(errors="replace") if log.exists() else ""

# SPDX-License-Identifier: Apache-2.0
"""Runs vLLM's API server such that all its child processes die with their parent.

Processes that vLLM spawns first import their parent's main module, which is this one and ties them to the
parent.  A plug-in would do so too late: vLLM loads plug-ins after the engine core has waited minutes for a
front end that may be gone.  Forked children (see `vllm_plugin`) import nothing and are tied by a hook.
"""

import gc
import os
import runpy
from contextlib import suppress
from pathlib import Path

from reasongrm_nemo.processes import scratch
from reasongrm_nemo.processes.child import die_with_parent

_PARENT = "REASONGRM_PARENT"  # multiprocessing announces the parent's process id only later


def _tie() -> None:
    """In a new child process: die with the parent, and become the parent of further children."""
    die_with_parent(int(os.environ[_PARENT]))
    os.environ[_PARENT] = str(os.getpid())


def _share_model_infos() -> None:
    """In a Slurm job, whose caches are its own, use what vLLM noted of a model's class in an earlier job.

    vLLM imports itself in one more process to inspect a class that it has no note of. The notes are JSON,
    checked by a hash of the class's module; nothing of them is run.
    """
    if not (kept := os.environ.get("REASONGRM_CACHE")):
        return
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = os.environ.get("VLLM_CACHE_ROOT") or Path(home) / "vllm"
    notes, ours = Path(root) / "modelinfos", Path(kept) / "vllm_modelinfos"
    with suppress(OSError, RuntimeError):  # they are there, or only time is lost
        ours.mkdir(parents=True, exist_ok=True)
        notes.parent.mkdir(parents=True, exist_ok=True)
        notes.symlink_to(ours)


if __name__ == "__mp_main__":
    _tie()
if __name__ == "__main__":
    os.environ[_PARENT] = str(os.getpid())
    os.register_at_fork(after_in_child=_tie)
    os.umask(0o077)  # keep sockets, and the file where workers meet, private to this user
    scratch.enter()
    _share_model_infos()
    # imported modules stay alive; garbage collection would take a sixth of the import time
    gc.disable()  # until the plug-in is loaded
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Build the trainer and the rollout environment, once per machine, and tie this checkout to them.

Standard library only. Usage: python3 scripts/setup_env.py [--container] [--prune] [--quiet]

Two things are made, for each of the two names:

* the *shared* environment, `$REASONGRM_ENVS/<name>-<hash>`: every third-party package, about 5 GB together.
  The hash covers the lock files, Python's version and the accelerator, so that checkouts with the same locks
  share one and a changed lock never alters an environment that something else is using.
* the *checkout's* environment, `.envs/<name>`: a few files. Its interpreter sees this checkout first and the
  shared environment after it. Two checkouts therefore never run each other's code, and whatever starts
  `sys.executable` (torchrun, vLLM's workers) stays in the same checkout without any variable set.

With --container a third is made instead, of Python 3.12 and with the versions of NeMo's container: for tests.

Environment variables: REASONGRM_ENVS (where, default ~/.cache/reasongrm/envs), REASONGRM_ACCELERATOR (cpu,
the default, or gpu: vLLM's CUDA build instead of its CPU build), PYTHON312 (for --container, where python3.12
is not on the path), and pip's own PIP_*.

This file parses under any Python 3, so that a wrong one is answered with a sentence.
"""

import os
import shutil
import subprocess
import sys

WANTED = (3, 11)


def fail(message):
    """Print one sentence and leave with status 2."""
    sys.stderr.write("set-up: {}\n".format(message))
    raise SystemExit(2)


def ensure_python():
    """Continue under Python 3.11, or say that there is none."""
    if sys.version_info[:2] == WANTED:
        return
    other = shutil.which("python3.11")
    # A shim can be found and still not run, so ask it.
    if (
        other
        and subprocess.call([other, "-c", ""], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    ):
        os.execv(other, [other] + sys.argv)
    fail(
        "needs Python 3.11 (NeMo 2.3 and these pins go with no other), this is {}.{}: install python3.11 and "
        "python3.11-venv, or say PYTHON=/path/to/python3.11".format(*sys.version_info[:2])
    )


if __name__ == "__main__":
    ensure_python()
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from environments import cli

    sys.exit(cli.main())

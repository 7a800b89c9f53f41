#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Build the trainer and rollout environments, once per machine, and link this checkout to them.

Standard library only. Usage: python3 scripts/setup_env.py [--container] [--prune] [--quiet]

Each of the two consists of:

* the *shared* environment, `$REASONGRM_ENVS/<name>-<hash>`, with all third-party packages (both: about 5 GB).
  The hash covers the lock files, Python's version and the accelerator, so checkouts with the same lock files
  share an environment, and a changed lock file never alters an environment that is in use elsewhere.
* the *checkout's* environment, `.envs/<name>`, a few files. Its interpreter searches this checkout first and
  then the shared environment. Two checkouts therefore never run each other's code, and everything that starts
  `sys.executable` (torchrun, vLLM's workers) stays in the same checkout without an environment variable.

--container builds a third environment instead, for tests: Python 3.12 with the versions of NeMo's container.

Environment variables: REASONGRM_ENVS (folder, default ~/.cache/reasongrm/envs), REASONGRM_ACCELERATOR (cpu,
the default, or gpu: vLLM's CUDA build instead of its CPU build), PYTHON312 (for --container, if python3.12 is
not on the path), and pip's PIP_*.

This file must parse under any Python 3, to refuse a wrong version in one sentence.
"""

import os
import shutil
import subprocess
import sys

WANTED = (3, 11)


def fail(message):
    """Print one sentence and exit with status 2."""
    sys.stderr.write("set-up: {}\n".format(message))
    raise SystemExit(2)


def ensure_python():
    """Continue under Python 3.11, or fail if there is none."""
    if sys.version_info[:2] == WANTED:
        return
    other = shutil.which("python3.11")
    # A shim can exist without a Python behind it, so run it.
    if (
        other
        and subprocess.call([other, "-c", ""], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    ):
        os.execv(other, [other] + sys.argv)
    fail(
        "needs Python 3.11 (NeMo 2.3 and the pinned versions work with no other), this is {}.{}: install "
        "python3.11 and python3.11-venv, or set PYTHON=/path/to/python3.11".format(*sys.version_info[:2])
    )


if __name__ == "__main__":
    ensure_python()
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from environments import cli

    sys.exit(cli.main())

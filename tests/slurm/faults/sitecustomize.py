# SPDX-License-Identifier: Apache-2.0
"""Ends one process of a job from within; imported before anything else from PYTHONPATH.

REASONGRM_TEST_FAULTS names a folder. A file there arms a fault, which removes the file:
``shard``: the `reasongrm run` of the first shard ends with status 9 before it does anything.
``rank``: the trainer rank 1 ends with status 7, whatever it is doing.
"""

import os
import threading
import time
from pathlib import Path

FOLDER = Path(os.environ["REASONGRM_TEST_FAULTS"])


def armed(fault):
    """Whether this fault is armed; disarms the fault."""
    try:
        (FOLDER / fault).unlink()
        return True
    except OSError:
        return False


def die_when_armed():
    while not armed("rank"):
        time.sleep(0.05)
    os._exit(7)


WORDS = Path("/proc/self/cmdline").read_text().split("\0")
if "run" in WORDS and "generate.shard=1/2" in WORDS and armed("shard"):
    os._exit(9)
if "reasongrm_nemo.grpo.main" in WORDS and os.environ.get("SLURM_PROCID") == "1":
    threading.Thread(target=die_when_armed, daemon=True).start()

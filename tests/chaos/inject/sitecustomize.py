# SPDX-License-Identifier: Apache-2.0
"""Kills at a chosen moment: every process of a run with this on its PYTHONPATH imports this module first.

CHAOS_MOMENT is JSON: `event` (an audit event of Python: open, os.rename, os.mkdir, ...), `path` (a regular
expression that the event's arguments must match), `nth` (which matching event), `who` (self, parent, command,
server), `signal`, `once` (a file; only the process that creates it kills). Audit events belong to Python, not
to our functions, so moving code does not change a moment.
"""

import json
import os
import re
import sys
import time


def install(moment):
    wanted, path, seen = moment["event"], re.compile(moment["path"]), [0]

    def hook(event, arguments):
        if event != wanted or seen[0] < 0 or not _matches(path, arguments):
            return
        seen[0] += 1
        if seen[0] == moment["nth"]:
            seen[0] = -1
            strike(moment)

    sys.addaudithook(hook)


def _matches(path, arguments):
    words = [os.fsdecode(word) for word in arguments[:2] if isinstance(word, (str, bytes, os.PathLike))]
    mode = arguments[1] if len(arguments) == 3 and isinstance(arguments[1], str) else None
    return bool(path.search(" ".join(words))) and mode not in ("r", "rb")


def strike(moment):
    try:
        os.close(os.open(moment["once"], os.O_CREAT | os.O_EXCL))
    except OSError:
        return
    if moment["who"] == "server":
        with open(moment["spec"]) as file:
            os.killpg(json.load(file)["pid"], moment["signal"])
        return
    target = {"self": os.getpid, "parent": os.getppid, "command": lambda: int(os.environ["CHAOS_COMMAND"])}
    os.kill(target[moment["who"]](), moment["signal"])


def other_clock(wanted):
    """Start the clock at `wanted` seconds since 1970; if negative, jump by that much every second."""
    real, began = time.time, time.time()
    if wanted < 0:
        time.time = lambda: real() + wanted * int(real() - began)
    else:
        time.time = lambda: wanted + real() - began


if "CHAOS_CLOCK" in os.environ:
    other_clock(float(os.environ["CHAOS_CLOCK"]))
if "CHAOS_MOMENT" in os.environ:
    os.environ.setdefault("CHAOS_COMMAND", str(os.getpid()))  # the first Python process is the command itself
    install(json.loads(os.environ["CHAOS_MOMENT"]))

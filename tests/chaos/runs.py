# SPDX-License-Identifier: Apache-2.0
"""Commands of the package as separate processes: started, watched, killed, and their orphans found."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STANDIN = Path(__file__).with_name("rollout_python")
TRACEBACK = "Traceback (most recent call last)"


def command(*words):
    """`reasongrm WORDS`."""
    return [sys.executable, "-m", "reasongrm_nemo", *map(str, words)]


def environment(**more):
    """An environment in which no server is vLLM and nothing uses the network."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("CHAOS_")}
    inject = Path(__file__).with_name("inject")
    env |= {"PYTHONPATH": f"{inject}:{ROOT}", "OMP_NUM_THREADS": "1"}
    env |= {"REASONGRM_ROLLOUT_PYTHON": str(STANDIN), "HF_HUB_OFFLINE": "1"}
    return env | {name: str(value) for name, value in more.items() if value is not None}


def _as_in_a_terminal():
    """Restore signals that a shell's background jobs ignore, which children inherit."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


class Run:
    """A watched command.

    Args:
        words: the whole command line.
        env: the command's environment.
        further: options for Popen.
    """

    def __init__(self, words, env, **further):
        self.mark = f"CHAOS_ID={uuid.uuid4().hex}"
        name, value = self.mark.split("=")
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "cwd": ROOT} | further
        self.process = subprocess.Popen(
            words,
            env=env | {name: value},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_as_in_a_terminal,
            **options,
        )

    def end(self, timeout):
        """Wait for the end; returns (exit status, output). A run that hangs is killed: status None."""
        try:
            output = self.process.communicate(timeout=timeout)[0] or b""
            return self.process.returncode, output.decode(errors="replace")
        except subprocess.TimeoutExpired:
            for pid in self.living():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return None, (self.process.communicate()[0] or b"").decode(errors="replace")

    def living(self):
        """Processes of this run anywhere in the process tree, recognized by their environment."""
        pids = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in (entry / "environ").read_bytes():
                    state = (entry / "stat").read_text().rpartition(") ")[2][0]
                    pids += [int(entry.name)] if state not in "ZX" else []
        return pids

    def orphans(self, seconds=25.0):
        """Processes still alive this many seconds after the command; they are killed."""
        deadline = time.monotonic() + seconds
        while (left := self.living()) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left


def one_sentence(status, output):
    """What is wrong with a refusal: "", or why it is not one sentence and a status."""
    if TRACEBACK in output:
        return "traceback: " + output.strip().splitlines()[-1][:200]
    if status is None:
        return "hung"
    if status < 0:
        return f"ended by signal {-status}"
    said = [line for line in output.splitlines() if line.startswith(("reasongrm:", "Error:", "Usage:"))]
    if status != 0 and not said:
        return f"status {status} without a sentence: {output.strip()[-200:]!r}"
    return ""

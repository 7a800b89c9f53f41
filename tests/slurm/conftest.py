# SPDX-License-Identifier: Apache-2.0
"""A real Slurm of four pseudo-nodes on this machine; where Slurm cannot run, tests are skipped."""

import fcntl
import os
import pwd
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
CANNOT = 3  # up.sh's status where the machine lacks something


class Cluster:
    """The cluster as a user on its login node sees it.

    Args:
        root: the cluster's folder, which all its nodes share.
    """

    def __init__(self, root):
        self.root = root
        self.space = root / "a shared folder"
        self.faults = self.space / "faults"
        self.faults.mkdir(parents=True)
        site = self.space / "site.env"
        site.write_text(
            'REASONGRM_SBATCH="--gres=none --time=40 --signal=B:USR1@60"\n'
            f"PYTHONPATH='{HERE / 'faults'}'\nREASONGRM_TEST_FAULTS='{self.faults}'\n"
        )
        self.env = os.environ | {"REASONGRM_SITE": str(site), "OMP_NUM_THREADS": "1"}

    def call(self, *command, node=None, user=None, cwd="/", check=True, **env):
        """A command's output on the login node or another node, run in a folder outside the checkout."""
        enter = [str(self.root / "enter"), *(["-n", node] if node else [])]
        if user:
            enter += ["setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--clear-groups"]
        words = [*enter, *map(str, command)]
        done = subprocess.run(words, cwd=cwd, env=self.env | env, capture_output=True, text=True, timeout=200)
        if check:
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def sbatch(self, *words, **how):
        """Submit a job; returns its id."""
        return self.call("sbatch", "--parsable", "--gres=none", *words, cwd=self.space, **how).split()[-1]

    def open_private_folder(self, node):
        """On this node only, let other users read the environments if they are in root's home."""
        above = reversed(Path(sys.executable).resolve().parents)
        private = next((str(path) for path in above if path.stat().st_mode & 0o5 != 0o5), None)
        if private is not None:
            # an overlay's top folder may have another mode
            steps = "mount -t tmpfs none /mnt && mkdir /mnt/upper /mnt/work && mount -t overlay overlay"
            steps += ' -o "lowerdir=$1,upperdir=/mnt/upper,workdir=/mnt/work" "$1" && chmod 755 "$1"'
            self.call("sh", "-c", steps, "sh", private, node=node)

    def job(self, number):
        """Slurm's fields of a job: JobState, Restarts, NodeList, ..."""
        words = self.call("scontrol", "-o", "show", "job", number).split()
        return {key: value for key, _, value in (word.partition("=") for word in words)}

    def nodes(self, number):
        """The names of a job's nodes, in order."""
        return self.call("scontrol", "show", "hostnames", self.job(number)["NodeList"]).split()

    def wait(self, number, until, timeout=400):
        """Wait until `until(job)` holds; returns the job."""
        deadline = time.monotonic() + timeout
        while True:
            job = self.job(number)
            if until(job):
                return job
            assert time.monotonic() < deadline, f"{job}\n{self.logs()}"
            time.sleep(0.5)

    def ended(self, number, timeout=400):
        """Wait until the job neither runs nor waits; returns the job."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        return self.wait(number, lambda job: job["JobState"] in over, timeout)

    def logs(self):
        """The end of every log, for a failure's message."""
        files = sorted(self.space.rglob("*.log"), key=lambda path: path.stat().st_mtime)
        return "\n".join(f"== {path}\n{path.read_text(errors='replace')[-1500:]}" for path in files[-4:])


@contextmanager
def only_one(path, patience=1200):
    """A machine can hold one such cluster, since addresses, namespaces and folder have fixed names."""
    with path.open("a") as lock:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    pytest.fail(f"another test run has held {path} for {patience} s: is its cluster stuck?")
                time.sleep(1)
        yield


@pytest.fixture(scope="module")  # not session scope: under xdist a session ends long after these tests
def cluster(rollout_python):
    """The cluster, started once; everything it started ends with it."""
    if os.geteuid() != 0:
        pytest.skip("no Slurm test cluster here: it needs root, for network and mount namespaces")
    root = Path("/tmp/slurm-test")
    with only_one(root.with_suffix(".lock")):
        yield from started(root)


def started(root):
    """The running cluster, stopped at the end."""
    # nodes have a private /tmp; files of ours in /tmp must be visible to all
    ours = [CHECKOUT, Path(sys.prefix), Path(os.environ["REASONGRM_ROLLOUT_PYTHON"]).parents[1]]
    shared = " ".join(str(path) for path in ours if path.is_relative_to("/tmp"))
    env = os.environ | {"ROOT": str(root), "GPUS": "0", "PMIX": "0", "SHARED": shared}
    if " " in shared.replace(" /tmp/", "/tmp/"):
        env["PRIVATE_TMP"] = "0"  # the list cannot hold folders with spaces
    # the cluster of a killed run is not reused: its nodes may see other folders
    subprocess.run([HERE / "cluster/down.sh", "--purge"], env=env, capture_output=True, timeout=200)
    done = subprocess.run([HERE / "cluster/up.sh"], env=env, capture_output=True, text=True, timeout=500)
    if done.returncode == CANNOT:
        pytest.skip(f"no Slurm test cluster here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stdout + done.stderr
    yield Cluster(root)
    subprocess.run(
        [HERE / "cluster/down.sh", "--purge"], env=env, check=True, capture_output=True, timeout=200
    )

# SPDX-License-Identifier: Apache-2.0
"""A node's scratch folder, whose name anybody can predict."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.processes.node_scratch import SCRATCH, own_scratch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    path = tmp_path / "local disk" / "reasongrm-0-77"
    monkeypatch.setenv(SCRATCH, str(path))
    return path


def test_the_folder_is_made_once_for_its_user_alone(scratch, monkeypatch):
    for _ in range(2):
        own_scratch()
    assert scratch.stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv(SCRATCH)
    own_scratch()


def test_a_folder_that_others_can_write_to_is_refused(scratch, tmp_path):
    scratch.mkdir(parents=True)
    for mode in (0o777, 0o720, 0o702):
        scratch.chmod(mode)
        with pytest.raises(UserError, match="is not a folder that only you can write to"):
            own_scratch()
    scratch.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    scratch.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="REASONGRM_SCRATCH"):
        own_scratch()
    scratch.unlink()
    scratch.write_text("a file")
    with pytest.raises(UserError, match="REASONGRM_SCRATCH"):
        own_scratch()


def test_another_users_folder_is_refused(scratch, monkeypatch):
    scratch.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: scratch.stat().st_uid + 1)
    with pytest.raises(UserError, match="is not a folder that only you can write to"):
        own_scratch()


KEEP = """from reasongrm_nemo.files.cache import remember; remember("kind", "key", "text")"""


def test_a_requeued_job_makes_its_folder_again_and_takes_no_other(tmp_path):
    """set_scratch of launch/common.sh, on the node that runs the script."""
    script = (ROOT / "launch/common.sh").read_text()
    function = script[script.index("set_scratch() {") :]
    function = function[: function.index("\n}\n") + 3]
    # under `set -e`, as in the script
    words = (
        f'set -euo pipefail\ndie() {{ echo "$1"; exit 2; }}\n{function}\nset_scratch; set_scratch; echo made'
        f"; {sys.executable} -c '{KEEP}'"
    )
    env = os.environ | {"SLURM_JOB_ID": "77", "REASONGRM_SCRATCH": str(tmp_path / "disk")}
    env |= {"XDG_CACHE_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}

    def run():
        return subprocess.run(["bash", "-c", words], env=env, capture_output=True, text=True)

    assert (run().returncode, run().stdout) == (0, "made\n")
    (folder,) = (tmp_path / "disk").iterdir()
    # compiler caches go with the job; reasongrm's cache stays for the next one
    assert not (folder / "cache").exists()
    assert (tmp_path / "home/reasongrm/kind/key").read_text() == "text"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    folder.symlink_to(tmp_path)
    done = run()
    assert done.returncode == 2 and "belongs to another user" in done.stdout

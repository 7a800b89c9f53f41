# SPDX-License-Identifier: Apache-2.0
"""A node's scratch folder, whose name anybody can foretell."""

import os

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files import SCRATCH, own_scratch


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    path = tmp_path / "local disk" / "reasongrm-0-77"
    monkeypatch.setenv(SCRATCH, str(path))
    return path


def test_it_is_made_once_for_its_user_alone(scratch, monkeypatch):
    for _ in range(2):
        own_scratch()
    assert scratch.stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv(SCRATCH)
    own_scratch()


def test_one_that_others_can_write_is_refused(scratch, tmp_path):
    scratch.mkdir(parents=True)
    for mode in (0o777, 0o720, 0o702):
        scratch.chmod(mode)
        with pytest.raises(UserError, match="is not a folder in which only you can write"):
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


def test_another_users_is_refused(scratch, monkeypatch):
    scratch.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: scratch.stat().st_uid + 1)
    with pytest.raises(UserError, match="is not a folder in which only you can write"):
        own_scratch()

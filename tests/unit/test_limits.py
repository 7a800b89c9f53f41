# SPDX-License-Identifier: Apache-2.0
"""Wall times, the stop file and the signal."""

import os
import signal

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.processes import stop_requests


@pytest.mark.parametrize(
    ("text", "expected"),
    [("03:45:00", 13500), ("1:00:00:05", 86405), ("00:00:30", 30), ("100:00:00", 360000), (90, 90)],
)
def test_durations(text, expected):
    assert stop_requests.parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "3h", "12:60:00", "1:2", "-1:00:00", "1:1:1:1:1"])
def test_other_forms_of_durations_are_refused(text):
    with pytest.raises(UserError, match="HH:MM:SS"):
        stop_requests.parse_duration(text)


def test_the_wall_time_counts_from_the_start_of_the_job(tmp_path, monkeypatch):
    monkeypatch.setenv("REASONGRM_JOB_START", "1000")
    now = [1000.0]
    limits = stop_requests.Limits(tmp_path, "00:10:00", now=lambda: now[0])
    assert limits.reached() is None
    now[0] = 1499.0
    assert limits.reached(100.0) is None
    now[0] = 1500.0  # another step of 100 s would end at 1,600, which is too late
    assert "checkpoint_must_save_by" in limits.reached(100.0)
    assert limits.reached() is None


def test_the_start_of_the_job_is_the_one_that_slurm_gives(monkeypatch):
    monkeypatch.delenv("REASONGRM_JOB_START", raising=False)
    monkeypatch.setenv("SLURM_JOB_START_TIME", "1234")
    stop_requests.note_job_start()
    assert os.environ["REASONGRM_JOB_START"] == "1234"
    monkeypatch.setenv("SLURM_JOB_START_TIME", "9999")
    stop_requests.note_job_start()  # a child process keeps the start of its run
    assert os.environ["REASONGRM_JOB_START"] == "1234"


def test_a_signal_makes_the_stop_file_and_an_old_one_does_not_count(tmp_path):
    (tmp_path / stop_requests.STOP_FILE).touch()
    limits = stop_requests.Limits(tmp_path, None)
    with stop_requests.stop_on_signal(tmp_path):
        assert limits.reached() is None
        os.kill(os.getpid(), signal.SIGUSR1)
        assert str(tmp_path / stop_requests.STOP_FILE) in limits.reached()
    assert limits.reached() is None


def test_the_marker(tmp_path):
    assert stop_requests.marked(tmp_path) is None
    stop_requests.mark(tmp_path, "asked", step=3)
    assert stop_requests.marked(tmp_path)["reason"] == "asked"
    assert stop_requests.marked(tmp_path)["step"] == 3

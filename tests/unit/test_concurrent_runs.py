# SPDX-License-Identifier: Apache-2.0
"""Several stages at once in one runs folder, like the tasks of a job array: locks and stop files."""

import os
import signal

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.locks import RunsLock
from reasongrm_nemo.processes import stop_requests


def test_artefacts_are_made_side_by_side_but_each_by_one_run_only(tmp_path):
    said = f"{tmp_path}/a.1of2 is in use .*process {os.getpid()}"
    with RunsLock(tmp_path, "a.1of2"), RunsLock(tmp_path, "a.2of2"), pytest.raises(UserError, match=said):
        RunsLock(tmp_path, "a.1of2").__enter__()
    with RunsLock(tmp_path, "a.1of2"):
        pass


def test_a_pipeline_wants_the_folder_for_itself(tmp_path):
    with RunsLock(tmp_path, "a"), pytest.raises(UserError, match=f"{tmp_path} is in use"):
        RunsLock(tmp_path).__enter__()
    with RunsLock(tmp_path), pytest.raises(UserError, match=f"{tmp_path} is in use"):
        RunsLock(tmp_path, "a").__enter__()
    with RunsLock(tmp_path):
        pass


def test_an_artefact_is_not_rebuilt_while_it_is_read(tmp_path):
    said = f"{tmp_path}/a is in use"
    with RunsLock(tmp_path, "b", ["a"]), RunsLock(tmp_path, "c", ["a"]), pytest.raises(UserError, match=said):
        RunsLock(tmp_path, "a").__enter__()
    with RunsLock(tmp_path, "a"), pytest.raises(UserError, match=f"{tmp_path}/a is in use"):
        RunsLock(tmp_path, "b", ["a"]).__enter__()
    with RunsLock(tmp_path, "b"):  # a refused lock holds nothing
        pass


def test_an_artefact_is_not_rebuilt_while_another_runs_folder_reads_it(tmp_path):
    mine, other = tmp_path / "mine", tmp_path / "other"
    (other / "a").mkdir(parents=True)
    for name in ("b", None):  # a stage, a pipeline
        with RunsLock(mine, name, elsewhere=[other / "a"]):
            with pytest.raises(UserError, match=f"{other}/a is in use"):
                RunsLock(other, "a").__enter__()
            with RunsLock(other, "c"):
                pass
    with RunsLock(other, "a"), pytest.raises(UserError, match=f"{other}/a is in use"):
        RunsLock(mine, "b", elsewhere=[other / "a"]).__enter__()
    with RunsLock(other, elsewhere=[other / "a"]):  # the run's own folder, by its full path
        pass


def test_a_signal_stops_its_own_stage_and_the_stop_file_stops_all(tmp_path):
    mine, other = (stop_requests.Limits(tmp_path, None, name=name) for name in ("a", "b"))
    with stop_requests.stop_on_signal(tmp_path, "a"):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert "stop.a" in mine.reached() and other.reached() is None
        with stop_requests.stop_on_signal(tmp_path, "b"):
            assert mine.reached(), "another's start takes nothing back"
    assert mine.reached() is None
    (tmp_path / stop_requests.STOP_FILE).touch()
    assert mine.reached() and other.reached()


def test_a_pipeline_clears_what_single_stages_left(tmp_path):
    stop_requests.stop_file(tmp_path, "a").touch()
    with stop_requests.stop_on_signal(tmp_path):
        assert stop_requests.Limits(tmp_path, None, name="a").reached() is None


def test_in_a_slurm_job_sigterm_asks_for_a_save(tmp_path, monkeypatch):
    mine, before = stop_requests.Limits(tmp_path, None, name="a"), signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with stop_requests.stop_on_signal(tmp_path, "a"):
        os.kill(os.getpid(), signal.SIGTERM)
        assert mine.reached()
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.delenv("SLURM_JOB_ID")
    with stop_requests.stop_on_signal(tmp_path, "a"):
        assert signal.getsignal(signal.SIGTERM) == before

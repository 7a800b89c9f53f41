# SPDX-License-Identifier: Apache-2.0
"""Pipes, endless devices and non-finite numbers in files that a run opens by itself: one sentence each."""

import errno
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from reasongrm_nemo.cli import main
from reasongrm_nemo.data.jsonl import JsonlAppender
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.cache import remember, remembered
from reasongrm_nemo.files.locks import RunsLock
from reasongrm_nemo.files.refusals import sentence
from reasongrm_nemo.files.shapes import FIGURE, NUMBER, shaped
from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.recipe.yaml_files import command_line
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.run_date import dated
from reasongrm_nemo.run.stage import run_stage

IS_ODD = "is a pipe, a socket or a device where a file is expected"


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("defaults: [base/filter]\nruns_dir: runs\ninputs: {paths: p, tasks: p}\n")
    Path("p").write_text("p")
    Path("runs").mkdir()
    return load_recipe("a.yaml")


def odd_ones(path):
    """Put a pipe without a writer, then an endless device, at the path."""
    for make in (os.mkfifo, lambda p: Path(p).symlink_to("/dev/zero")):
        make(path)
        yield
        Path(path).unlink()


def test_odd_files_in_a_runs_folder(recipe):
    for _ in odd_ones("runs/.date"):
        with pytest.raises(UserError, match=rf"\.date {IS_ODD}"):
            dated(recipe)
    Path("runs/.date").write_text("2026-11-29" + " " * 2000)
    with pytest.raises(UserError, match=r"\.date is longer than the 1 KiB"):
        dated(recipe)
    Path("runs/.date").unlink()
    Path("runs/.date").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"\.date is a link to nowhere"):
        dated(recipe, keep=True)
    Path("runs/.date").write_text("2026-11-29")  # through the link
    for _ in odd_ones("runs/.lock"):
        with pytest.raises(UserError, match=rf"\.lock {IS_ODD}"), RunsLock(Path("runs")):
            pass
    Path("runs/.partial").mkdir()
    for name in ("stage.json", "stage.log"):
        with pytest.raises(UserError):  # leaves an unfinished artefact
            run_stage(recipe, Console(quiet=True), pool=None)
        (Path("runs/.partial/a") / name).unlink()
        for _ in odd_ones(f"runs/.partial/a/{name}"):
            with pytest.raises(UserError) as refused:
                run_stage(recipe, Console(quiet=True), pool=None)
            if name == "stage.log":
                assert IS_ODD in str(refused.value)


def test_odd_files_to_append_to_and_in_the_cache(tmp_path, monkeypatch):
    for _ in odd_ones(tmp_path / "paths.jsonl.partial"):
        with pytest.raises(UserError, match=IS_ODD):
            JsonlAppender(tmp_path / "paths.jsonl.partial")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    remember("kind", "key", "text")
    assert remembered("kind", "key") == "text"
    file = tmp_path / "reasongrm" / "kind" / "key"
    file.unlink()
    for _ in odd_ones(file):
        assert remembered("kind", "key") is None


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite(number, tmp_path):
    value = json.loads(number)
    with pytest.raises(UserError, match=r"^f: a must be a finite number, not -?(nan|inf)"):
        shaped({"a": value}, {"a": NUMBER}, "f")
    assert shaped({"a": value}, {"a": FIGURE}, "f") == {"a": value}


def test_status_of_metrics_that_are_not_numbers(tmp_path):
    folder = tmp_path / "1_grpo"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    for reward in ('"x"', "[1]", '{"a": 1}', "true"):
        (folder / "metrics.jsonl").write_text(f'{{"step": 1, "reward": {reward}}}\n')
        told = CliRunner().invoke(main, ["status", str(tmp_path)])
        assert told.exit_code == 2 and "reward must be a number or null, not" in told.stderr, told
    (folder / "metrics.jsonl").write_text('{"step": 7, "reward": null, "loss": NaN}\n')  # it diverged
    told = CliRunner().invoke(main, ["status", str(tmp_path)])
    assert told.exit_code == 0 and "step 7  loss nan" in told.stdout


def test_errors_of_the_system_that_name_no_file(tmp_path, monkeypatch):
    for number, due in (
        (errno.ENOSPC, "a file, or the output, has no space left on its disk: free some"),
        (errno.EFBIG, "a file, or the output, has reached the largest file size allowed here: raise"),
        (errno.EINVAL, "the system reports an error (Invalid argument)"),
    ):
        assert sentence(OSError(number, os.strerror(number))).startswith(due)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError) as lost:
        os.getcwd()
    assert sentence(lost.value).endswith("no longer exists: change to another")


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("runs_dir=a: b", "; if it is text, quote it for YAML as well: 'runs_dir=\"...\"'"),
        (
            "runs_dir=b\udcff",
            "; it contains bytes that are not UTF-8: rename the file, or set LC_ALL=C.UTF-8",
        ),
    ],
)
def test_an_override_that_yaml_cannot_read_says_what_to_do(word, remedy):
    with pytest.raises(UserError) as refused:
        command_line([word])
    assert str(refused.value).endswith(f"is not a YAML value{remedy}")

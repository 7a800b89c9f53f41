# SPDX-License-Identifier: Apache-2.0
"""A full disk: every writer reports it in one sentence, and the same command resumes."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_pool import TINY

from reasongrm_nemo.data import JsonlAppender, JudgeTask, write_jsonl
from reasongrm_nemo.data.token_probs import TokenProbs, write_token_probs
from reasongrm_nemo.errors import StageFailed, UserError
from reasongrm_nemo.files import cache
from reasongrm_nemo.files.disk import disk_full, says_full
from reasongrm_nemo.files.writes import whole_folder, write_json
from reasongrm_nemo.processes.work_order import WorkOrder, rank_of_the_run
from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.stage import run_stage
from reasongrm_nemo.stages import filter as filter_stage

HALF = np.array([0.5], np.float16)
EXAMPLE = JudgeTask("t", "p", "s", [{"role": "user", "content": "?"}], "A", "chosen_first")


@pytest.fixture
def recipe(tmp_path):
    for name in ("paths", "tasks"):
        (tmp_path / f"{name}.jsonl").write_text(name)
    path = tmp_path / "3_filter.yaml"
    path.write_text(
        f"defaults: [base/filter]\ninputs: {{paths: {tmp_path}/paths.jsonl, tasks: {tmp_path}/tasks.jsonl}}\n"
        f"runs_dir: {tmp_path}/runs\n"
    )
    return path


@pytest.fixture
def stage(monkeypatch):
    def run(ctx):
        (ctx.work / "out.txt").write_text("out")
        run.also(ctx)
        return {}

    run.also = lambda ctx: None
    monkeypatch.setattr(filter_stage, "run", run)
    return run


def go(recipe):
    return run_stage(load_recipe(recipe), Console(quiet=True), pool=None)


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("[Errno 28] No space left on device", True),
        ("Error while serializing: I/O error: No space left on device (os error 28)", True),
        ("[Errno 122] Disk quota exceeded", True),
        ("PytorchStreamWriter failed writing file data/3: file write failed", True),
        ("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0", True),
        ("OSError: [Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device", True),
        ("PytorchStreamReader failed reading zip archive", False),
        ("unexpected pos argument", False),
        ("Connection closed by peer", False),
        ("I/O error (os error 2)", False),
        ("", False),
    ],
)
def test_a_full_disk_in_the_words_of_each_library(text, full, tmp_path):
    assert says_full(text) is full and says_full(RuntimeError(text)) is full
    assert (disk_full(RuntimeError(text), tmp_path) is not None) is full


def test_the_error_names_the_folder_that_is_full(tmp_path, monkeypatch):
    frees = {"/dev/shm": 4096}
    usage = shutil._ntuple_diskusage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, frees.get(str(path), 10**9)))
    said = str(disk_full(RuntimeError("No space left on device"), tmp_path, 5 << 20))
    assert said.startswith("no space left on the disk of /dev/shm (5.0 MiB needed, 4.0 KiB free); free some")
    assert "run the same command again" in said
    assert disk_full(StageFailed(said), tmp_path) is None, "said already"


def full(*_, **__):
    raise OSError(28, "No space left on device")


def test_each_writer_reports_a_full_disk(recipe, stage, tmp_path, monkeypatch):
    """Records, JSON, appended rollouts, Parquet, the log, the manifest and the user's cache."""

    def on_full(write):
        def also(ctx):
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", full)
                write(ctx)

        return also

    def log(ctx):
        ctx.log.handlers[-1].stream = open("/dev/full", "w")  # noqa: SIM115
        ctx.log.info("x")

    def append(ctx):
        with JsonlAppender(ctx.work / "rollouts.jsonl") as file:
            file.append([EXAMPLE])

    writers = {
        "records": lambda ctx: write_jsonl(ctx.work / "x.jsonl", [EXAMPLE]),
        "json": lambda ctx: write_json(ctx.work / "x.json", {}),
        "appended": append,
        "parquet": lambda ctx: write_token_probs(ctx.work / "p.parquet", [TokenProbs("t", 0, HALF, HALF)]),
        "log": log,
    }
    for name, write in writers.items():
        stage.also = on_full(write)
        with pytest.raises(StageFailed) as caught:
            go(recipe)
        said = str(caught.value)
        assert said.startswith("no space left on the disk of ") and "run the same command again" in said, name
        assert "\n" not in said
    stage.also = lambda ctx: None
    with monkeypatch.context() as patch:
        patch.setattr("reasongrm_nemo.run.manifest.artefact.write_json", full)
        with pytest.raises(StageFailed, match="no space left on the disk of"):
            go(recipe)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        cache.remember("kind", "key", "text")  # a lost cache entry only costs time
    assert go(recipe).path.exists(), "the same command goes on"


def test_an_export_reports_the_space_it_needed(tmp_path):
    with pytest.raises(UserError) as caught, whole_folder(tmp_path / "hf", 5 << 20) as partial:
        (partial / "x").write_text("x")
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    said = str(caught.value)
    assert said.startswith(f"no space left on the disk of {tmp_path / 'hf'} (5.0 MiB needed, ")
    assert said.endswith("nothing was kept.") and not list(tmp_path.iterdir())


def test_a_rank_reports_a_full_disk_or_ends_without_a_traceback(tmp_path, monkeypatch, capfd, recipe):
    import json
    import signal

    before = signal.getsignal(signal.SIGUSR1)
    monkeypatch.setattr("reasongrm_nemo.processes.work_order.die_with_parent", lambda parent: None)
    order = WorkOrder(load_recipe(recipe), tmp_path, TINY, {})
    try:
        with pytest.raises(SystemExit) as ended, rank_of_the_run(order):
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
        row = json.loads((tmp_path / "failures.jsonl").read_text())
        assert ended.value.code == 2 and row["user"] is True
        assert row["error"].startswith(f"no space left on the disk of {tmp_path} (")
        monkeypatch.setattr(Path, "open", full)
        with pytest.raises(SystemExit), rank_of_the_run(order):
            raise OSError(28, "No space left on device")
    finally:
        signal.signal(signal.SIGUSR1, before)

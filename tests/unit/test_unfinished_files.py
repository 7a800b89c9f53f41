# SPDX-License-Identifier: Apache-2.0
"""Files that an interrupted stage had finished are recorded, and compared when the stage resumes."""

import json
import time
from pathlib import Path

import faults
import pytest
from fake_pool import TINY, FakePool

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.manifest import note_whole
from reasongrm_nemo.run.stage import run_stage
from reasongrm_nemo.stages import filter as filter_stage
from reasongrm_nemo.stages import generate


def test_a_damaged_file_of_an_interrupted_stage_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("defaults: [base/filter]\nruns_dir: runs\ninputs: {paths: p, tasks: p}\n")
    Path("p").write_text("p")
    made = []

    def work(ctx):
        file = ctx.work / "verdicts" / "a.jsonl"
        if not file.exists():
            made.append(1)
            file.parent.mkdir(exist_ok=True)
            file.write_text("first\nsecond\n")
            ctx.whole(file)
        if interrupted:
            raise KeyboardInterrupt

    def go():
        return run_stage(cfg, Console(quiet=True), pool=None)

    monkeypatch.setattr(filter_stage, "run", work)
    cfg, interrupted = load_recipe("a.yaml"), True
    with pytest.raises(KeyboardInterrupt):
        go()
    file = Path("runs/.partial/a/verdicts/a.jsonl")
    for damage in (faults.flipped_byte_time_kept, faults.truncated, faults.nuls, faults.longer):
        good = file.read_bytes()
        damage(file)
        with pytest.raises(
            UserError, match=r"verdicts/a\.jsonl has changed since the interrupted run wrote it.*made again$"
        ):
            go()
        file.write_bytes(good)
    with pytest.raises(KeyboardInterrupt):
        go()
    assert made == [1]
    interrupted = False
    file.unlink()  # as the error tells the user to
    manifest = go().manifest
    assert made == [1, 1] and "whole" not in manifest


def test_a_completely_sampled_file_is_recorded(context, tasks):
    words = f"model.hf_path={TINY}", "generate.skip_tasks=0", "generate.keep_probs=true"
    ctx = context("2_generate", *words, pool=FakePool(tasks))
    state = {"key": "k", "identity": {}, "sessions": [{"start": time.time()}]}
    (ctx.work / "stage.json").write_text(json.dumps(state))
    generate.run(ctx)
    noted = json.loads((ctx.work / "stage.json").read_text())["whole"]
    assert set(noted) == {"paths.jsonl", "probs.parquet"}
    note_whole(ctx.work / "elsewhere", ctx.work / "paths.jsonl")  # nothing to resume, nothing to record

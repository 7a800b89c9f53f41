# SPDX-License-Identifier: Apache-2.0
"""An artefact's life: complete or absent, resumed after a kill, stale when its inputs or keys change."""

import json
import os
import time

import pytest
from copying import copying_stage, go, recipe_in

from reasongrm_nemo.errors import StageFailed, UserError
from reasongrm_nemo.files.disk import disk_full, readable_bytes
from reasongrm_nemo.files.writes import write_json
from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.manifest import HashCache
from reasongrm_nemo.run.stage import run_stage


@pytest.fixture
def recipe(tmp_path):
    return recipe_in(tmp_path)


@pytest.fixture
def stage(monkeypatch):
    return copying_stage(monkeypatch)


def test_a_finished_artefact_has_its_files_and_a_full_manifest(recipe, stage, tmp_path):
    outcome = go(recipe)
    assert outcome.path == tmp_path / "runs" / "3_filter"
    assert (outcome.path / "out.txt").read_text() == "paths\ntasks\n"
    assert not (tmp_path / "runs" / ".partial" / "3_filter").exists()
    manifest = json.loads((outcome.path / "manifest.json").read_text())
    assert manifest["recipe"]["filter"]["strategy"] == "r_star"
    assert manifest["result"] == {"lines": 2}
    assert manifest["drops"] == {"odd": 3}
    assert manifest["seed"] == 1 and manifest["code"]["version"]
    assert manifest["packages"]["omegaconf"]
    assert set(manifest["outputs"]) == {"out.txt", "deep/more.txt"}
    assert set(manifest["inputs"]) == {"paths", "tasks"}
    assert all(len(item["sha256"]) == 64 for item in manifest["inputs"].values())
    assert manifest["timings"]["seconds"] >= 0 and len(manifest["timings"]["sessions"]) == 1


def test_done_and_unchanged_is_not_done_again(recipe, stage):
    assert not go(recipe).skipped
    assert go(recipe).skipped
    assert stage.calls == 1


@pytest.mark.parametrize(
    ("override", "again"),
    [
        ("filter.strategy=shortest", True),
        ("seed=2", True),
        ("filter.strategy=r_star", False),
        ("rollout.port=8123", False),
        ("cluster.threads_per_rank=7", False),
        ("rollout.max_num_seqs=3", False),
        ("rollout.temperature=0.5", False),  # the filter has no rollouts
    ],
)
def test_keys_that_change_a_stage_make_it_stale(recipe, stage, override, again):
    go(recipe)
    go(recipe, override)
    assert stage.calls == (2 if again else 1)


def test_a_changed_input_makes_a_stage_stale_and_an_equal_one_does_not(recipe, stage, tmp_path):
    go(recipe)
    (tmp_path / "paths.jsonl").write_text("paths\n")  # rewritten with the same contents
    assert go(recipe).skipped
    (tmp_path / "paths.jsonl").write_text("other\n")
    assert not go(recipe).skipped
    assert (tmp_path / "runs" / ".stale" / "3_filter" / "out.txt").read_text() == "paths\ntasks\n"
    assert (tmp_path / "runs" / "3_filter" / "out.txt").read_text() == "other\ntasks\n"


def test_the_old_artefact_stands_until_the_new_one_is_whole(recipe, stage, tmp_path):
    go(recipe)

    def fail(ctx):
        raise UserError("no")

    stage.also = fail
    with pytest.raises(UserError, match=r"^no$"):
        go(recipe, "seed=2")
    assert (tmp_path / "runs" / "3_filter" / "manifest.json").exists()
    stage.also = lambda ctx: None
    assert go(recipe).skipped  # back to the first recipe: nothing was lost


def test_a_missing_or_truncated_output_is_noticed(recipe, stage, tmp_path):
    go(recipe)
    (tmp_path / "runs" / "3_filter" / "deep" / "more.txt").write_text("mo")
    assert not go(recipe).skipped
    (tmp_path / "runs" / "3_filter" / "out.txt").unlink()
    assert not go(recipe).skipped
    assert stage.calls == 3


def test_a_failed_stage_keeps_its_partial_and_is_resumed(recipe, stage, tmp_path):
    def fail(ctx):
        (ctx.work / "half.txt").write_text("half")
        raise StageFailed("the lights went out")

    stage.also = fail
    with pytest.raises(StageFailed):
        go(recipe)
    assert not (tmp_path / "runs" / "3_filter").exists()
    assert stage.resumed is False
    stage.also = lambda ctx: (ctx.work / "whole.txt").write_text((ctx.work / "half.txt").read_text())
    outcome = go(recipe)
    assert stage.resumed is True
    assert (outcome.path / "whole.txt").read_text() == "half"
    assert len(outcome.manifest["timings"]["sessions"]) == 2


def test_a_partial_of_another_recipe_is_discarded(recipe, stage, capsys):
    def fail(ctx):
        (ctx.work / "half.txt").write_text("half")
        raise StageFailed("the lights went out")

    stage.also = fail
    with pytest.raises(StageFailed):
        go(recipe)
    stage.also = lambda ctx: None
    outcome = run_stage(load_recipe(recipe, ["seed=9"]), Console(plain=True), pool=None)
    assert stage.resumed is False
    assert not (outcome.path / "half.txt").exists()
    assert "is discarded: seed 1 → 9" in capsys.readouterr().err


def test_checkpoints_of_another_recipe_are_set_aside_until_it_comes_back(recipe, stage, capsys):
    def fail(ctx):
        (ctx.work / "checkpoints" / "step_000100").mkdir(parents=True)
        raise StageFailed("the lights went out")

    def again(ctx):
        raise StageFailed("and again")

    stage.also = fail
    with pytest.raises(StageFailed):
        go(recipe)
    stage.also = again
    with pytest.raises(StageFailed):
        run_stage(load_recipe(recipe, ["seed=9"]), Console(plain=True), pool=None)
    assert stage.resumed is False and "is set aside in " in capsys.readouterr().err
    stage.also = lambda ctx: None
    outcome = go(recipe)
    assert stage.resumed is True
    assert (outcome.path / "checkpoints" / "step_000100").is_dir()


def test_a_partial_without_its_note_is_discarded(recipe, stage, tmp_path):
    work = tmp_path / "runs" / ".partial" / "3_filter"
    work.mkdir(parents=True)
    (work / "junk").write_text("junk")
    assert not (go(recipe).path / "junk").exists()


def test_a_folder_that_is_not_ours_is_left_alone(recipe, stage, tmp_path):
    folder = tmp_path / "runs" / "3_filter"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"has no manifest\.json, so it will not be replaced"):
        go(recipe)
    assert (folder / "thesis.tex").exists()


def test_missing_inputs_name_their_key(recipe, stage, tmp_path):
    (tmp_path / "tasks.jsonl").unlink()
    with pytest.raises(UserError, match=r"^inputs.tasks: .*tasks.jsonl does not exist"):
        go(recipe)
    assert stage.calls == 0


def test_a_missing_checkpoint_names_its_key(tmp_path):
    path = tmp_path / "2_generate.yaml"
    path.write_text(
        "defaults: [base/generate, model/tiny, cluster/cpu]\n"
        f"runs_dir: {tmp_path}/runs\ninputs: {{tasks: {tmp_path}/tasks.jsonl}}\n"
    )
    (tmp_path / "tasks.jsonl").write_text("")
    with pytest.raises(UserError, match=r"^model.hf_path: .*/nowhere does not exist"):
        go(path, f"model.hf_path={tmp_path}/nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^model.hf_path: .*/empty has no config.json"):
        go(path, f"model.hf_path={tmp_path}/empty")
    config = {"model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30}
    write_json(tmp_path / "empty" / "config.json", config)
    with pytest.raises(UserError, match=r"^model.architecture is qwen2, but .*config.json says llama"):
        go(path, f"model.hf_path={tmp_path}/empty")
    words = [f"model.hf_path={tmp_path}/empty", "model.architecture=llama"]
    config["max_position_embeddings"] = 128
    write_json(tmp_path / "empty" / "config.json", config)
    with pytest.raises(UserError, match=r"^model\.max_model_len is 320, past max_position_embeddings 128"):
        go(path, *words)


def test_a_full_disk_is_one_sentence_and_the_partial_is_resumed(recipe, stage, tmp_path):
    def fill(ctx):
        (ctx.work / "half.txt").write_text("half")
        with open("/dev/full", "w") as out:  # the kernel's own ENOSPC
            out.write("x")

    stage.also = fill
    with pytest.raises(StageFailed) as caught:
        go(recipe)
    message = str(caught.value)
    assert "no space left" in message and "free)" in message
    assert str(tmp_path / "runs" / ".partial" / "3_filter") in message and "\n" not in message
    stage.also = lambda ctx: None
    assert (go(recipe).path / "half.txt").exists()


def test_a_full_disk_behind_another_error_is_found_too(tmp_path):
    try:
        try:
            raise OSError(28, "No space left on device", "/data/x")
        except OSError as cause:
            raise RuntimeError("a rank ended") from cause
    except RuntimeError as error:
        assert "/data/x" in str(disk_full(error, tmp_path / "not" / "there"))
    assert disk_full(RuntimeError("something else"), tmp_path) is None


def test_a_full_disk_that_only_a_child_process_met(recipe, stage, monkeypatch):
    def fail(ctx):
        raise StageFailed("the trainer ended with status 1")

    stage.also = fail
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 4096))
    with pytest.raises(StageFailed, match=r"no space left .* \(4.0 KiB free\)"):
        go(recipe)


def test_readable_bytes():
    assert [readable_bytes(n) for n in (0, 1023, 1536, 3 << 20, 5 << 40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3.0 MiB",
        "5.0 TiB",
    ]


def test_large_inputs_are_hashed_once_across_runs(recipe, stage, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "paths.jsonl").write_text("paths\n" * (1 << 18))
    time.sleep(0.06)  # a hash is kept only if the file has not changed for this long
    go(recipe)
    read = []
    real = HashCache._read
    monkeypatch.setattr(
        HashCache, "_read", lambda self, path, seen: (read.append(path.name), real(self, path, seen))[1]
    )
    go(recipe)
    assert "tasks.jsonl" in read and "paths.jsonl" not in read  # hashes of small files are not kept
    os.utime(tmp_path / "paths.jsonl", (1, 1))
    assert go(recipe).skipped
    assert "paths.jsonl" in read

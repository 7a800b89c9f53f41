# SPDX-License-Identifier: Apache-2.0
"""Recorded hashes are checked by whatever path a file is reached, and for converted folders too."""

import os
import shutil
from pathlib import Path

import faults
import pytest
from click.testing import CliRunner
from fake_pool import RECIPES, TINY

from reasongrm_nemo.cli import main
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.writes import write_json
from reasongrm_nemo.run.converted import NOTE, note_of, stands
from reasongrm_nemo.run.manifest import Artefact, HashCache, check_made, check_path, content_hash

DIFFERS = "is not the file that first wrote"


@pytest.fixture
def first(tmp_path, monkeypatch):
    """The folder of a finished artefact that holds a model and records."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    artefact = Artefact(tmp_path / "runs", "first")
    artefact.begin("key", {}, {})
    shutil.copytree(TINY, artefact.work / "hf", copy_function=shutil.copyfile)
    (artefact.work / "tasks.jsonl").write_text('{"a": 1}\n')
    (artefact.work / "stage.log").touch()
    said = {"name": "first", "stage": "sft", "seed": 1, "code": {"version": "1"}}
    artefact.finish(said | {key: {} for key in ("packages", "result", "drops", "recipe")}, HashCache())
    return artefact.path


def refused(*words):
    told = CliRunner().invoke(main, list(map(str, words)))
    assert told.exit_code == 2 and told.stderr.count("\n") == 1, told.output
    return told.stderr


def test_a_link_from_outside_is_checked_against_the_record(first, tmp_path):
    model, tasks, farm = tmp_path / "model", tmp_path / "tasks.jsonl", tmp_path / "farm"
    model.symlink_to(first / "hf")
    tasks.symlink_to(first / "tasks.jsonl")
    farm.mkdir()  # a folder of links, like a cache of models
    for file in (first / "hf").iterdir():
        (farm / file.name).symlink_to(file)
    given = model, tasks, farm
    for path in given:
        check_path(path, "x")
        assert check_made(path, HashCache().tree(path), "x")
    faults.flipped_byte_time_kept(first / "hf" / "model.safetensors")
    faults.flipped_byte_time_kept(first / "tasks.jsonl")
    faults.longer(first / "hf" / "config.json")
    for path in given:
        with pytest.raises(UserError, match=DIFFERS):
            check_path(path, "x")
        with pytest.raises(UserError, match=DIFFERS):
            check_made(path, HashCache().tree(path), "x")
    for words in (
        ("score", "rewardbench", tasks),
        ("serve", RECIPES / "1_grpo_zero.yaml", f"model.hf_path={model}", f"runs_dir={tmp_path}/r"),
        ("plan", RECIPES / "1_grpo_zero.yaml", "--lengths", tasks),
        ("plan", RECIPES / "1_grpo_zero.yaml", f"model.hf_path={model}"),
        ("plan", RECIPES / "2_generate.yaml", "model.hf_path=@first/hf", f"runs_dir={tmp_path}/runs"),
    ):
        assert DIFFERS in refused(*words)


def test_a_folder_that_was_moved_to_another_disk_and_linked_is_followed(first, tmp_path):
    (first / "hf").rename(tmp_path / "elsewhere")
    (first / "hf").symlink_to(tmp_path / "elsewhere")
    (first / "hf" / "more").symlink_to(first)  # a link back
    told = CliRunner().invoke(main, ["show", str(first), "--verify"])
    assert told.exit_code == 0, told.output
    check_path(first, "x")
    faults.flipped_byte_time_kept(tmp_path / "elsewhere" / "model.safetensors")
    with pytest.raises(UserError, match=DIFFERS):
        check_path(first, "x")


def test_a_link_or_a_pipe_counts_as_an_addition_or_a_change(first):
    hf = first / "hf"
    for name, make in (
        ("special_tokens_map.json", lambda path: path.symlink_to("nowhere")),
        ("chat_template.jinja", lambda path: path.symlink_to(path.name)),
        ("model.safetensors.index.json", os.mkfifo),
    ):
        make(hf / name)
        with pytest.raises(UserError, match=f"{name} was added after first had finished.*; remove it$"):
            check_made(hf, HashCache().tree(hf), "x")
        told = CliRunner().invoke(main, ["show", str(first), "--verify"])
        assert told.exit_code == 2 and f"unknown   hf/{name}" in told.output
        (hf / name).unlink()
    (hf / "config.json").unlink()
    os.mkfifo(hf / "config.json")
    with pytest.raises(UserError, match=rf"config\.json {DIFFERS}"):
        check_made(hf, HashCache().tree(hf), "x")


def test_files_left_by_a_desktop_or_a_file_server_change_no_key(first):
    hf = first / "hf"
    before = content_hash(check_made(hf, HashCache().tree(hf), "x"))
    (hf / ".DS_Store").write_text("windows of a file manager")
    (hf / ".nfs000000001").write_text("removed, but open somewhere")
    assert content_hash(check_made(hf, HashCache().tree(hf), "x")) == before


def test_an_artefact_without_its_manifest_is_refused_with_a_remedy(first):
    (first / "manifest.json").unlink()
    with pytest.raises(
        UserError, match=r"^inputs\.a: .*manifest\.json does not exist.*restore the manifest, or move"
    ):
        check_path(first / "tasks.jsonl", "inputs.a")


@pytest.fixture
def converted(tmp_path, monkeypatch):
    """A converted folder with the note that the conversion writes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "converted"
    shutil.copytree(TINY, folder, copy_function=shutil.copyfile)
    (folder / "model_weights").mkdir()
    (folder / "model_weights" / "common.pt").write_bytes(b"numbers")
    write_json(folder / NOTE, note_of(TINY, HashCache())(folder))
    return folder


def test_a_converted_folder_is_checked_against_its_note(converted):
    names = ("model.safetensors", "model_weights/common.pt", "config.json")
    assert stands(converted, TINY, HashCache())
    (converted / "notes.txt").write_text("mine")  # users may add their own files
    for name in names:
        good = (converted / name).read_bytes()
        for damage in (faults.flipped_byte_time_kept, faults.truncated, faults.removed):
            damage(converted / name)
            assert not stands(converted, TINY, HashCache())
            with pytest.raises(UserError, match=rf"^k: .*{name} .*; restore it, or convert again$"):
                check_made(converted, HashCache().tree(converted), "k")
            (converted / name).write_bytes(good)
    check_path(converted / "model_weights", "k")
    assert stands(converted, TINY, HashCache())


def test_a_note_of_an_earlier_version_still_names_its_source(converted):
    write_json(converted / NOTE, {"source": note_of(TINY, HashCache())(converted)["source"]})
    faults.flipped_byte(converted / "model.safetensors")
    check_path(converted, "k")
    assert stands(converted, TINY, HashCache())
    faults.nuls(converted / NOTE)
    with pytest.raises(UserError, match=r"conversion\.json: not valid JSON"):
        check_path(converted, "k")
    (converted / "config.json").unlink()  # without it the note is taken for another program's
    check_path(Path(converted / "model.safetensors"), "k")

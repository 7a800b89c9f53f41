# SPDX-License-Identifier: Apache-2.0
"""Recorded hashes are compared wherever an artefact is read or reported as unchanged."""

import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import faults
import pytest
from click.testing import CliRunner
from fake_pool import TINY

from reasongrm_nemo.cli import main
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.manifest import HashCache, check_path, hashes
from reasongrm_nemo.run.stage import is_done, run_stage
from reasongrm_nemo.stages import filter as filter_stage

RECIPE = "defaults: [base/filter]\nruns_dir: runs\nname: {}\ninputs: {{paths: '{}', tasks: '{}'}}\n"
FILES = [
    "checkpoints/step_000002/.metadata",
    "checkpoints/step_000002/__0_0.distcp",
    "hf/config.json",
    "hf/judge.json",
    "hf/model.safetensors",
    "hf/tokenizer.json",
    "tasks.jsonl",
]


LOADED = {}


def recipe(file):
    """The recipe, loaded once for all tests, since loading takes longer than everything tested here."""
    text = Path(file).read_text()
    if text not in LOADED:
        LOADED[text] = load_recipe(file)
    return LOADED[text]


def go(file):
    return run_stage(recipe(file), Console(quiet=True), pool=None)


def command(*words):
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """The names of recipes run so far; first.yaml has made a model, records and a checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    runs = []

    def work(ctx):
        runs.append(ctx.cfg.name)
        if ctx.cfg.name == "first":
            shutil.copytree(TINY, ctx.work / "hf", copy_function=shutil.copyfile)
            (ctx.work / "hf" / "judge.json").write_text('{"format": 1}')
            (ctx.work / "hf" / "model.safetensors").write_bytes(bytes(range(256)) * (5 << 12))  # 5 MiB
            (ctx.work / "tasks.jsonl").write_text('{"a": 1}\n{"b": 2}\n')
            (ctx.work / "checkpoints" / "step_000002").mkdir(parents=True)
            for name in FILES[:2]:
                (ctx.work / name).write_bytes(name.encode() * 9)

    monkeypatch.setattr(filter_stage, "run", work)
    Path("first.yaml").write_text(RECIPE.format("first", "p.jsonl", "t.jsonl"))
    Path("p.jsonl").write_text("p")
    Path("t.jsonl").write_text("t")
    go("first.yaml")
    return runs


def inside(name):
    return Path("runs/first") / name


def reader(value):
    """The file of a recipe that reads `value`."""
    Path("second.yaml").write_text(RECIPE.format("second", value, "t.jsonl"))
    return "second.yaml"


def damaged(names):
    """Damage each file in each way in turn, yield (file, fault), and restore the file."""
    for name in names:
        good = inside(name).read_bytes()
        for fault, damage in faults.CONTENTS.items():
            damage(inside(name))
            yield name, fault
            inside(name).unlink(missing_ok=True)
            inside(name).write_bytes(good)


def test_a_damaged_file_of_a_finished_artefact_is_not_called_unchanged(ran):
    for name, fault in damaged(FILES):
        assert not is_done(recipe("first.yaml")), (name, fault)
    assert is_done(recipe("first.yaml")) and go("first.yaml").skipped
    time.sleep(0.06)  # for this long after a change, a file's hash is not trusted
    assert go("first.yaml").skipped
    for damage in (faults.nuls, faults.flipped_byte_time_kept, faults.other_file_time_kept):
        damage(inside("hf/model.safetensors"))
        assert not go("first.yaml").skipped
    assert ran == ["first"] * 4


def test_a_damaged_input_is_refused_by_the_name_of_its_file(ran):
    for value, names in {"@first/hf": FILES[2:6], "@first/tasks.jsonl": FILES[6:]}.items():
        go(reader(value))
        for name, fault in damaged(names):
            with pytest.raises(UserError, match=r"^inputs\.paths: ") as refused:
                go("second.yaml")
            said = str(refused.value).replace(os.getcwd() + "/", "")
            gone = fault == "removed" and name == FILES[-1]
            assert str(inside(name)) in said
            assert ("does not exist" if gone else "run stage first again") in said
        assert go("second.yaml").skipped  # everything has been restored
    faults.nuls(inside("tasks.jsonl"))
    go("first.yaml")  # as the error tells the user to
    assert go("second.yaml").skipped


def test_a_checkpoint_and_a_whole_artefact_are_inputs_too(ran):
    faults.flipped_byte_time_kept(inside(FILES[1]))
    for value in ("@first/checkpoints/step_000002", "@first", "runs/first/checkpoints/step_000002"):
        with pytest.raises(
            UserError, match=r"inputs\.paths: .*__0_0\.distcp is not the file that first wrote"
        ):
            go(reader(value))
    go(reader("@first/hf"))  # nothing damaged is read


def test_a_file_added_to_an_input_is_refused_and_elsewhere_ignored(ran):
    inside("notes.txt").write_text("mine")
    inside("hf/.hidden").write_text("mine")
    assert go("first.yaml").skipped
    go(reader("@first/hf"))
    inside("hf/chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(
        UserError, match=r"hf/chat_template\.jinja was added after first had finished.*remove it$"
    ):
        go(reader("@first/hf"))
    with pytest.raises(UserError, match=r"hf/chat_template\.jinja \(and 1 more\) was added"):
        go(reader("@first"))


def test_a_manifest_without_hashes_is_still_read(ran):
    file = inside("manifest.json")
    manifest = json.loads(file.read_text())
    for entry in manifest["outputs"].values():
        entry.pop("sha256")
        entry.pop("mtime_ns")
    manifest.pop("digest")
    file.write_text(json.dumps(manifest))
    assert go("first.yaml").skipped
    go(reader("@first/hf"))
    shown = command("show", "runs/first", "--verify", "--json")
    assert shown.code == 0 and len(json.loads(shown.out)["unhashed"]) == len(manifest["outputs"])
    faults.truncated(inside("hf/tokenizer.json"))
    with pytest.raises(UserError, match=r"tokenizer\.json is not the file"):
        go(reader("@first/hf"))


@pytest.mark.parametrize("value", ["@first/hf", "@first/tasks.jsonl", "runs/first/hf"])
def test_an_artefact_without_its_manifest_cannot_be_an_input(ran, value):
    """Only a manifest says what an artefact holds; an unfinished one has no manifest yet and is read."""
    file = inside("manifest.json")
    file.unlink()
    with pytest.raises(UserError, match=r"first/manifest\.json.* does not exist"):
        go(reader(value))
    file.symlink_to("manifest.json")
    with pytest.raises(UserError, match=r"first/manifest\.json is a link that points back to itself"):
        go(reader(value))
    file.unlink()
    file.mkdir()
    with pytest.raises(UserError, match=r"first/manifest\.json is a folder where a file is expected"):
        go(reader(value))
    file.rmdir()
    Path("runs/.partial").mkdir(exist_ok=True)
    Path("runs/first").rename("runs/.partial/first")
    go(reader("runs/.partial/first/hf"))


def test_a_changed_manifest_is_refused(ran):
    file = inside("manifest.json")
    text = file.read_text()
    file.write_text(text.replace('"seed": 1', '"seed": 2'))
    with pytest.raises(UserError, match=r"first/manifest\.json was changed after it was written"):
        go("first.yaml")
    with pytest.raises(UserError, match="was changed after it was written"):
        go(reader("@first/hf"))
    said = command("show", "runs/first")
    assert said.code == 2 and "was changed after it was written" in said.err
    file.write_text(text.replace('"hf/judge.json"', '"../hf/judge.json"'))
    with pytest.raises(UserError, match="outside the artefact"):
        go("first.yaml")
    file.write_text(text)
    assert go("first.yaml").skipped


def test_show_verify_lists_every_difference_and_exits_with_2(ran):
    clean = command("show", "runs/first", "--verify")
    assert clean.code == 0 and "files are unchanged" in clean.out
    faults.flipped_byte_time_kept(inside("tasks.jsonl"))
    faults.removed(inside("hf/config.json"))
    inside("odd\nname").write_text("x")
    told = command("show", "runs/first", "--verify")
    assert told.code == 2
    assert "  changed   tasks.jsonl\n  " in told.out and "  missing   hf/config.json\n" in told.out
    assert "  unknown   odd\\nname\n" in told.out
    assert told.err == (
        "reasongrm: runs/first: 3 files differ from the manifest of first; "
        "restore them, or run the stage again\n"
    )
    verified = json.loads(command("show", "runs/first", "--verify", "--json").out)
    assert (verified["changed"], verified["missing"]) == (["tasks.jsonl"], ["hf/config.json"])


def test_verify_reads_what_the_cache_cannot_see(ran, monkeypatch):
    """A disk that returns other bytes for a file that nobody touched."""
    file = inside("hf/model.safetensors")
    before = file.stat()
    time.sleep(0.06)
    assert go("first.yaml").skipped
    faults.flipped_byte(file)
    real = Path.stat

    def stat(self, **how):
        if self.name != file.name:
            return real(self, **how)
        return SimpleNamespace(**{name: getattr(before, name) for name in dir(before) if name[:3] == "st_"})

    monkeypatch.setattr(Path, "stat", stat)
    assert go("first.yaml").skipped  # a limit that the docs state
    told = command("show", "runs/first", "--verify")
    assert told.code == 2 and "changed   hf/model.safetensors" in told.out


def test_a_file_is_read_once_and_a_large_one_not_again_by_the_next_process(ran, monkeypatch):
    time.sleep(0.06)
    first = HashCache()
    entries = first.tree(Path("runs/first"))
    read = []
    monkeypatch.setattr(HashCache, "_read", lambda self, path, seen: read.append(path.name) or "0" * 64)
    assert first.tree(Path("runs/first")) == entries and read == []
    HashCache().tree(Path("runs/first/hf"))
    assert "model.safetensors" not in read and "config.json" in read
    read.clear()
    (kept,) = Path("cache/reasongrm/hashes").iterdir()
    for damage in (faults.nuls, faults.truncated, faults.folder_in_its_place):
        damage(kept)
        HashCache().file(inside("hf/model.safetensors"))
    assert read == ["model.safetensors"] * 3


def test_a_hash_of_a_file_changed_while_it_was_read_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "growing"
    file.write_bytes(b"x" * (2 << 20))
    cache = HashCache()
    monkeypatch.setattr(hashes, "_UNSETTLED_NS", 3600 * 10**9)
    cache.file(file)  # just written: the file system's clock may not have ticked since
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(hashes, "_UNSETTLED_NS", 50 * 10**6)
    time.sleep(0.06)
    one = cache.file(file)
    faults.flipped_byte_time_kept(file)
    assert cache.file(file)["sha256"] != one["sha256"]
    assert cache.file(file)["mtime_ns"] == one["mtime_ns"]


def test_commands_that_read_a_path_compare_its_hash(ran, tmp_path):
    faults.flipped_byte_time_kept(inside("tasks.jsonl"))
    faults.flipped_byte_time_kept(inside("hf/model.safetensors"))
    name = Path(__file__).resolve().parents[2] / "recipes" / "tiny" / "1_grpo_zero.yaml"
    for words in (
        ("score", "rewardbench", "runs/first/tasks.jsonl"),
        ("score", "rewardbench", "p.jsonl", "--compare", "runs/first/tasks.jsonl"),
        ("score", "rewardbench", "p.jsonl", "--page", "x.md", "--tasks", "runs/first/tasks.jsonl"),
        ("plan", name, "--lengths", "runs/first/tasks.jsonl"),
        ("serve", name, "model.hf_path=runs/first/hf", "runs_dir=runs"),
        ("serve", name, "model.hf_path=@first/hf", "runs_dir=runs"),
    ):
        told = command(*words)
        assert told.code == 2 and told.err.count("\n") == 1, told
        assert "is not the file that first wrote" in told.err, words


def test_another_program_s_manifest_is_ignored(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "a web page"}')
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    check_path(tmp_path / "model", "x")
    (tmp_path / "manifest.json").write_text("no json")
    check_path(tmp_path / "model", "x")
    os.mkfifo(tmp_path / "model" / "manifest.json")
    check_path(tmp_path / "model", "x")

# SPDX-License-Identifier: Apache-2.0
"""Every file that a command reads, with every fault: one sentence that names the path, no traceback."""

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import faults
import pytest
from border_table import GRPO, JSON, READERS, TABLE, TEXT
from click.testing import CliRunner
from fake_pool import TINY

from reasongrm_nemo.cli import main
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.judge.settings import JudgeSettings
from reasongrm_nemo.judge.template import load_template
from reasongrm_nemo.recipe import load
from reasongrm_nemo.run import rollout_pool
from reasongrm_nemo.run.stage import check_checkpoint
from reasongrm_nemo.stages import filter as filter_stage

RECIPE = "defaults: [base/filter]\nruns_dir: runs\nname: {}\ninputs: {{paths: '{}', tasks: p.jsonl}}\n"
REACHED = "all was read, and a server would start"


def no_server(*_):
    raise UserError(REACHED)


LOADED = {}


def loaded(path, overrides=(), read=load.load_recipe):
    """`load_recipe`, cached by its text: most faults are in other files, and loading would take longest."""
    overrides = tuple(overrides)
    if not Path(path).is_file() or Path(path).stat().st_size > 1 << 16:
        return read(path, overrides)
    key = str(path), overrides, Path(path).read_bytes()
    if key not in LOADED:
        LOADED[key] = read(path, overrides)
    return LOADED[key]


@pytest.fixture(scope="module")
def place():
    """A folder with every file intact, which other users may enter."""
    folder = Path(tempfile.mkdtemp(prefix="reasongrm-borders-"))
    folder.chmod(0o755)
    before = Path.cwd()
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr(filter_stage, "run", lambda ctx: (ctx.work / "out.jsonl").write_text("x") and None)
        patch.setattr(load, "load_recipe", loaded)
        patch.setattr(rollout_pool.RolloutPool, "get", no_server)
        Path("demo").mkdir()
        Path("p.jsonl").write_text("p")
        Path("demo/1_first.yaml").write_text(RECIPE.format("first", "p.jsonl"))
        Path("demo/2_second.yaml").write_text(RECIPE.format("second", "@first/out.jsonl"))
        Path("third.yaml").write_text(RECIPE.format("third", "p.jsonl"))
        Path("log.jsonl").write_text("{}\n")
        shutil.copytree(TINY, "hf", copy_function=shutil.copyfile)
        template = load_template("reasongrm")
        JudgeSettings(template).write(Path("hf"))
        Path("hf/chat_template.jinja").write_text(
            json.loads(Path("hf/tokenizer_config.json").read_text())["chat_template"]
        )
        Path("hf/t.yaml").write_text("description: d\nuser: '{question} {answer_a} {answer_b}'\n")
        assert call("run demo/1_first.yaml").exit_code == 0
        work = Path("runs/.partial/third")
        work.mkdir(parents=True)
        state = {"key": "k", "identity": {}, "sessions": [{"start": 1.0}], "inputs": {}}
        (work / "stage.json").write_text(json.dumps(state))
        (work / "metrics.jsonl").write_text('{"step": 1}\n')
        Path("runs/.launch").mkdir()
        Path("runs/.launch/7.job").write_text("third\tlog.txt\n")
        assert call("status runs").exit_code == 0
        yield folder
    os.chdir(before)
    shutil.rmtree(folder)


def call(line):
    return CliRunner().invoke(main, [GRPO if word == "GRPO" else word for word in line.split()])


def wrong(result, path):
    """How a command ended badly; empty if it printed one sentence that names the path."""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"raised {result.exception!r}"[:300]
    said = [line for line in result.stderr.splitlines() if line.startswith("reasongrm: ")]
    if result.exit_code != 2 or len(said) != 1 or "Traceback" in result.output:
        return f"ended with {result.exit_code}: {result.output[-300:]}"
    if REACHED in result.stderr:
        return "the server was started"
    name = Path(path).parent if Path(path).name in ("manifest.json", "config.json") else path
    return "" if str(name) in said[0] else f"named no path: {said[0]}"


@contextmanager
def damaged(path, damage):
    """Damage a file inside the block, then restore it."""
    path = Path(path)
    data = path.read_bytes()
    try:
        damage(path)
        yield
    finally:
        faults.clear(path)
        path.parent.mkdir(parents=True, exist_ok=True)  # a stage that succeeded has moved the folder
        path.write_bytes(data)


def test_the_table_is_large():
    assert sum(len(kinds) for _, _, kinds in TABLE) >= 200
    assert {line.split()[0] for line, _, _ in TABLE} >= {
        "run",
        "pipeline",
        "chain",
        "plan",
        "show",
        "score",
        "serve",
        "status",
        "preflight",
    }


@pytest.mark.parametrize(("line", "path", "kinds"), TABLE, ids=[f"{line}: {path}" for line, path, _ in TABLE])
def test_a_command_prints_one_sentence_for_each_fault(place, line, path, kinds):
    failed = {}
    for name, damage in kinds.items():
        with damaged(path, damage):
            if said := wrong(call(line), path):
                failed[name] = said
    assert not failed


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_raises_one_sentence_for_each_fault(place, reader):
    read, names = READERS[reader]
    kinds = TEXT if reader == "template" else JSON
    failed = {}
    for name in names:
        read(Path("hf"))
        for fault, damage in kinds.items():
            if name.endswith(".jinja") and fault not in (
                *faults.PATHS,
                "utf16",
                "latin",
                "binary",
                "gigabyte",
            ):
                continue
            with damaged(f"hf/{name}", damage):
                try:
                    read(Path("hf"))
                    failed[name, fault] = "was read"
                except UserError as error:
                    if "hf" not in str(error) or "\n" in str(error):
                        failed[name, fault] = str(error)
                except Exception as error:
                    failed[name, fault] = repr(error)[:300]
    assert not failed


@pytest.mark.parametrize(
    ("line", "path", "others"),
    [
        ("show runs/first", "runs/first/manifest.json", faults.OTHERS),
        ("show --verify runs/first", "runs/first/manifest.json", (None, [])),
        ("run third.yaml", "runs/.partial/third/stage.json", (None, 7, [])),
        ("serve GRPO model.hf_path=hf runs_dir=runs", "hf/config.json", ([{}],)),
    ],
)
def test_no_value_of_another_type_causes_a_traceback(place, line, path, others):
    """Replace every value of the file by null, a number, text, a list and an object; many do no harm."""
    if path.endswith("manifest.json"):  # else its digest would report the change
        manifest = json.loads(Path(path).read_text())
        manifest.pop("digest", None)
        manifest["recipe"] = {"stage": "filter"}
        Path(path).write_text(json.dumps(manifest))
    failed, count = {}, 0
    for name, damage in faults.every_value(Path(path), 60, others):
        with damaged(path, damage):
            result = call(line)
            count += 1
            if result.exit_code or result.exception:
                said = wrong(result, path)
                if said and REACHED not in result.stderr:
                    failed[name] = said
        if line.startswith("run"):
            shutil.rmtree("runs/third", ignore_errors=True)
    assert not failed and count


def test_no_value_of_a_config_causes_a_traceback(place):
    cfg, failed = load.load_recipe(GRPO), {}
    for name, damage in faults.every_value(Path("hf/config.json")):
        with damaged("hf/config.json", damage):
            try:
                check_checkpoint(cfg, Path("hf"), "model.hf_path")
            except UserError as error:
                if "hf" not in str(error):
                    failed[name] = str(error)
            except Exception as error:
                failed[name] = repr(error)
    assert not failed


RUNS = {
    "a file": lambda path: path.write_text("x"),
    "a dangling link": lambda path: path.symlink_to("nowhere/at/all"),
    "a loop": lambda path: path.symlink_to(path.name),
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/null"),
}


@pytest.mark.parametrize("command", ["run third.yaml", "pipeline demo", "chain demo", "status"])
def test_a_runs_dir_that_is_not_a_folder(place, command):
    failed = {}
    for name, make in RUNS.items():
        path = Path("odd")
        try:
            make(path)
            line = f"status {path}" if command == "status" else f"{command} runs_dir={path}"
            result = call(line)
            if result.exception is None and command in ("chain demo",):
                continue  # chain only reads, and there is nothing to read
            if said := wrong(result, path):
                failed[name] = said
        finally:
            faults.clear(path)
    for name in ("x" * 300, "/proc/nothing", "/dev/null/below", "x/" * 3000):
        line = f"status {name}" if command == "status" else f"{command} runs_dir={name}"
        result = call(line)
        if result.exception is not None and (said := wrong(result, name[:40])):
            failed[name[:40]] = said
    assert not failed


def test_strange_things_in_a_runs_folder_do_no_harm(place):
    strange = Path("runs")
    (strange / "stray").mkdir()
    for number, damage in enumerate((faults.SYNTAX | faults.SHAPES | faults.PATHS).values()):
        (strange / f"s{number}").mkdir()
        (strange / f"s{number}" / "manifest.json").write_text("{}")
        damage(strange / f"s{number}" / "manifest.json")
    (strange / "file").write_text("x")
    (strange / "new\nline").mkdir()
    (strange / os.fsdecode(b"no-utf8-\xff")).mkdir()
    os.mkfifo(strange / "pipe")
    (strange / ".partial" / "stray").mkdir()
    (strange / ".partial" / "file").write_text("x")
    for line in ("run demo/1_first.yaml", "chain demo", "status runs", "show runs/first", "pipeline demo"):
        result = call(line)
        assert result.exit_code == 0, (line, result.output, result.exception)
    for child in strange.iterdir():
        if child.name not in ("first", "second") and not child.name.startswith("."):
            faults.clear(child)


def test_a_path_without_permission_is_named(place):
    """Run as another user, since root may read everything."""
    failed = {}
    for line, path in (
        ("run demo/1_first.yaml", "demo/1_first.yaml"),
        ("show runs/first", "runs/first/manifest.json"),
        ("show runs/first", "runs/first"),
        ("chain demo", "runs/first/manifest.json"),
        ("pipeline demo", "demo"),
        ("status runs", "runs"),
        ("score rewardbench log.jsonl", "log.jsonl"),
        ("serve GRPO model.hf_path=hf runs_dir=runs", "hf/config.json"),
        ("run third.yaml", "runs"),
        ("run third.yaml runs_dir=new/runs", "new"),
    ):
        mode = os.stat(path).st_mode if os.path.exists(path) else None
        if "third" not in line:  # the stage would be done after this call
            call(line)  # late imports may be unreadable for the other user
        try:
            if mode is not None:
                os.chmod(path, 0)
            result = as_nobody(line)
        finally:
            if mode is not None:
                os.chmod(path, mode)
        if said := wrong(result, path):
            failed[line, path] = said
    assert not failed


def as_nobody(line):
    if os.geteuid() != 0:
        return call(line)
    os.seteuid(65534)
    try:
        return call(line)
    finally:
        os.seteuid(0)


def test_names_that_no_file_can_have(place):
    failed = {}
    for value in (
        '"a\\0b"',
        '"\\ud83d"',
        "x" * 400,
        "a/" * 2500,
        '"new\\nline"',
        '"\\e[31m"',
        "/proc/self/mem",
    ):
        Path("odd.yaml").write_text(RECIPE.replace("'{}'", "{}").format("odd", value))
        result = call("run odd.yaml")
        if said := wrong(
            result, "/proc" if value[0] == "/" else "inputs.paths" if len(value) < 400 else value[:40]
        ):
            failed[value[:30]] = said
        Path("odd.yaml").write_text(
            RECIPE.format("odd", "p.jsonl").replace("runs_dir: runs", f"runs_dir: {value}")
        )
        result = call("run odd.yaml")
        if result.exception is not None and (said := wrong(result, "")):
            failed[f"runs_dir {value[:30]}"] = said
    assert not failed

# SPDX-License-Identifier: Apache-2.0
"""What tests ran to success: commands with their options, templates, programs; and what there is to run.

A test states what it runs with ``@pytest.mark.runs("plan", "--sweep")`` and fails if it did not: `recorded`
holds what really ended well. test_all_is_run.py compares the marks with the argument parser and the files.
"""

import ast
import os
import subprocess
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("launch", "conversion", "scripts", "benchmarks")
recorded: set[tuple[str, str]] = set()


def note(name, *options):
    """Record a success: of a command of `reasongrm` with options, of a file, or of "-m module"."""
    recorded.add((name, ""))
    recorded.update((name, option) for option in options)


def note_line(words):
    """Record everything of this checkout that the command line of a successful process names."""
    words = [os.fspath(word) for word in words]
    for place, word in enumerate(words):
        path = ROOT / word
        if path.is_file() and path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in FOLDERS:
            note(str(path.relative_to(ROOT)))
        if words[place - 1 : place] == ["-m"] and word.startswith("reasongrm_nemo"):
            note(f"-m {word}")
    for start in ("reasongrm_nemo", "reasongrm"):
        if start in words:
            command, *rest = words[words.index(start) + 1 :] or [""]
            note(command, *(word for word in rest if word.startswith("--")))


def watch(monkeypatch):
    """Record what this process runs, through click's commands and through `subprocess.run`."""
    from reasongrm_nemo.run import commands

    invoke, run = commands.Command.invoke, subprocess.run

    def recording_invoke(self, ctx):
        given = [_name(param) for param in self.params if _given(param, ctx)]
        try:
            result = invoke(self, ctx)
        except click.exceptions.Exit as end:
            if end.exit_code == 0:
                note(ctx.info_name, *given)
            raise
        note(ctx.info_name, *given)
        return result

    def recording_run(command, *args, **kwargs):
        done = run(command, *args, **kwargs)
        if done.returncode == 0 and isinstance(command, (list, tuple)):
            note_line(command)
        return done

    monkeypatch.setattr(commands.Command, "invoke", recording_invoke)
    monkeypatch.setattr(subprocess, "run", recording_run)


def _given(param, ctx):
    source = ctx.get_parameter_source(param.name)
    return isinstance(param, click.Option) and source is click.core.ParameterSource.COMMANDLINE


def _name(param):
    return max(param.opts, key=len)


def commands():
    """Every command of `reasongrm` and all its options, except click's --help."""
    from reasongrm_nemo.cli import main

    for name, command in main.commands.items():
        yield name, ""
        yield from ((name, _name(param)) for param in command.params if isinstance(param, click.Option))


def programs():
    """Templates, programs and modules that are started directly."""
    launch = (path for path in (ROOT / "launch").iterdir() if path.is_file())
    python = (path for folder in (*FOLDERS[1:], "reasongrm_nemo") for path in (ROOT / folder).rglob("*.py"))
    mains = (path for path in python if '"__main__"' in path.read_text(encoding="utf-8"))
    for path in sorted([*launch, *mains]):
        place = path.relative_to(ROOT)
        name = ".".join(place.with_suffix("").parts).removesuffix(".__main__")
        yield (f"-m {name}" if place.parts[0] == "reasongrm_nemo" else str(place)), ""


def marks():
    """The claims of all tests' marks, read from source, so that they include uncollected tests."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for call in getattr(node, "decorator_list", ()):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.runs":
                    yield from _pairs(ast.literal_eval(argument) for argument in call.args)


def claimed(item):
    """The claims of one test's marks."""
    return {pair for mark in item.iter_markers("runs") for pair in _pairs(mark.args)}


def _pairs(words):
    name, *options = words
    return [(name, ""), *((name, option) for option in options)]

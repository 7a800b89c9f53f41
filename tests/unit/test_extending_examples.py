# SPDX-License-Identifier: Apache-2.0
"""docs/extending_examples.md: its files and diffs, applied to a copy of the package, pass its checks."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending_examples.md").read_text()
FENCED = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS = [part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:] if FENCED.search(part)]
CHECKS = "\n".join(
    f"\n# {title}\nprint({title!r}, flush=True)\n{body}"
    for section in SECTIONS
    for title in [section.splitlines()[0]]
    for _, name, body in FENCED.findall(section)
    if name == "check"
)


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the package and its recipes with every example applied."""
    copy = tmp_path_factory.mktemp("extended")
    for folder in ("reasongrm_nemo", "recipes"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for language, name, body in FENCED.findall(PAGE):
        if language == "diff":
            subprocess.run(["git", "apply", "-"], cwd=copy, input=body, text=True, check=True)
        elif name != "check":
            (copy / name).write_text(body)
    return copy


def test_the_examples_pass_their_checks(extended):
    """In one process, since most of an example's time is imports."""
    command, env = [sys.executable, "-c", CHECKS], os.environ | {"PYTHONPATH": str(extended)}
    checked = subprocess.run(command, cwd=extended, env=env, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.splitlines() == [section.splitlines()[0] for section in SECTIONS]


def test_the_model_familys_file_is_the_shipped_one(extended):
    """Except for the licence line, the docstring and the import of annotations."""
    name = "reasongrm_nemo/models/mistral.py"
    shipped = (ROOT / name).read_text().partition("import annotations\n\n")[2]
    assert (extended / name).read_text() == shipped

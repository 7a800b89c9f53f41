# SPDX-License-Identifier: Apache-2.0
"""Checks before training that all installed engines read a config.json as this package does."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.cache import remember, remembered
from reasongrm_nemo.files.documents import parse_json, read_json
from reasongrm_nemo.files.shapes import shaped
from reasongrm_nemo.files.writes import write_json
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.rollout.server import read_config, versions
from reasongrm_nemo.rollout.server.settings import PYTHON_VARIABLE

_KEPT = "configs"
_TIMEOUT_S = 300.0


def pythons(cluster: Mapping[str, Any] | None = None) -> list[str]:
    """Python interpreters of the trainer and rollout environments, as far as they are configured."""
    named = dict(cluster or {})
    trainer = named.get("trainer_python") or sys.executable
    rollout = named.get("rollout_python") or os.environ.get(PYTHON_VARIABLE)
    return [str(python) for python in (trainer, rollout) if python]


def check_folder(folder: Path, interpreters: Iterable[str]) -> list[str]:
    """Run `check_config` on the folder's config.json."""
    file = folder / "config.json"
    return check_config(read_json(file), str(file), interpreters)


def check_config(config: Mapping[str, Any], where: str, interpreters: Iterable[str]) -> list[str]:
    """Compare how every engine in the environments reads a config.json with how this package reads it.

    Args:
        config: the parsed file.
        where: the file's path, for errors.
        interpreters: the environments' pythons; those that do not exist on this machine are skipped.

    Returns:
        The engines, with their versions.

    Raises:
        UserError: an engine refuses the file, or reads a different shape or rope.
    """
    ours = Architecture.from_config(config, where)
    present = [python for python in interpreters if Path(python).is_file()]
    # leave out the dtype, which has no effect here and which a conversion knows only late
    stated = {name: value for name, value in config.items() if name not in ("torch_dtype", "dtype")}
    key = _key(stated, present)
    known = _remembered(key)  # an engine takes seconds to import
    answers = read([config], present)[0] if known is None else known
    engines = [held(answer, ours, where) for answer in answers]
    if known is None:
        remember(_KEPT, key, json.dumps(answers))
    return engines


def _remembered(key: str) -> list[dict[str, Any]] | None:
    """Answers cached by an earlier run; None if there are none, or the cache is damaged."""
    with suppress(UserError):
        if (kept := remembered(_KEPT, key)) is not None:
            return shaped(parse_json(kept, key), [{"engine": str, "read?": dict, "error?": str}], key)  # type: ignore[no-any-return]
    return None


def _key(config: Mapping[str, Any], interpreters: Sequence[str]) -> str:
    """Hash of everything that answers depend on: the config, the reading code and the engines' versions."""
    engines = [[python, versions.installed_versions(python)] for python in interpreters]
    how = Path(read_config.__file__).read_text(encoding="utf-8")
    return hashlib.sha256(json.dumps([config, engines, how], sort_keys=True).encode()).hexdigest()


def read(configs: Sequence[Mapping[str, Any]], interpreters: Sequence[str]) -> list[list[dict[str, Any]]]:
    """How each engine reads each config.json, or its error; environments run in parallel.

    Raises:
        UserError: an environment's python fails to answer.
    """
    with tempfile.TemporaryDirectory(prefix="reasongrm-") as home:
        folders = [Path(home) / str(number) for number in range(len(configs))]
        for folder, config in zip(folders, configs, strict=True):
            folder.mkdir()
            write_json(folder / "config.json", config)
        with ThreadPoolExecutor(max(len(interpreters), 1)) as pool:
            answers = list(pool.map(lambda python: _ask(python, folders), interpreters))
    return [
        [answer_of_config for answer in answers for answer_of_config in answer[number]]
        for number in range(len(configs))
    ]


def held(answer: Mapping[str, Any], ours: Architecture, where: str) -> str:
    """Return the engine's name if it reads the same as this package; see `check_config`."""
    engine = str(answer["engine"])
    if "error" in answer:
        raise UserError(f"{engine} cannot read {where}: {answer['error']}")
    if differences := _differences(ours, Architecture.from_config(answer["read"], where, served_only=True)):
        raise UserError(f"{engine} reads {where} differently from this package: {', '.join(differences)}")
    return engine


def _ask(python: str, folders: Sequence[Path]) -> list[list[dict[str, Any]]]:
    # the other environment's packages and plug-ins must not leak in
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    env = kept | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_PLUGINS": ""}
    # run as text: as a file, its folder would come first on sys.path, and `types` would be this package's
    command = [python, "-c", Path(read_config.__file__).read_text(encoding="utf-8"), *map(str, folders)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=env, cwd=folders[0], timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{python} cannot be run to read a config.json: {error}") from None
    try:
        answer: list[list[dict[str, Any]]] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = done.stderr.strip().splitlines()[-1:] or [f"exited with status {done.returncode}"]
        raise UserError(f"{python} cannot be run to read a config.json: {last[0]}") from None
    return answer


def _differences(ours: Architecture, theirs: Architecture) -> list[str]:
    if not ours.rope.max_positions:  # if the file does not say, every reader has a different default
        theirs = replace(theirs, rope=replace(theirs.rope, max_positions=0))
    mine, other = _flat(ours), _flat(theirs)
    return [f"{key} {other[key]} instead of {value}" for key, value in mine.items() if other[key] != value]


def _flat(architecture: Architecture) -> dict[str, Any]:
    sizes = asdict(architecture)
    rope = {f"rope {key}": value for key, value in sizes.pop("rope").items()}
    return sizes | rope

# SPDX-License-Identifier: Apache-2.0
"""Examines one node: `python -m reasongrm_nemo.slurm.preflight.node JSON` prints a line of JSON.

Uses the standard library only: this runs in both environments, before anything is known to work.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from reasongrm_nemo import __version__
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.processes import placement

MARK = "node-check "
"""Marks the line with the JSON, as other output may surround it."""


def look(asked: dict[str, Any]) -> dict[str, Any]:
    """The node's answers.

    Args:
        asked: `token_file` and `token` (a file just written on the first node), `folders` (name -> folder
            whose free space to report), `packages`, `gpu` (whether to report GPUs), `nccl` (extra environment
            in which to ask torch for NCCL's version; None: do not ask), `nodes` (of the job), `ports`.
    """
    name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()  # Slurm's name, if the two differ
    answer: dict[str, Any] = {"node": name.split(".")[0], "code": __version__}
    answer["shared"] = _reads(Path(asked["token_file"]), asked["token"])
    answer["free"] = {name: _free(Path(folder)) for name, folder in asked["folders"].items()}
    answer["versions"] = {name: _version(name) for name in asked["packages"]}
    answer["python"] = ".".join(map(str, sys.version_info[:3]))
    if asked["gpu"]:
        answer["gpus"] = _gpus()
    if asked["nccl"] is not None:
        answer["nccl"] = _nccl(asked["nccl"])
    try:
        answer["address"] = placement.own_address(asked["nodes"])
        answer["taken"] = [port for port in asked["ports"] if not _free_port(answer["address"], port)]
    except UserError as error:
        answer["network"] = str(error)
    return answer


def _reads(file: Path, token: str) -> str | None:
    """Why the file cannot be read; None if it can."""
    try:
        # listing the folder makes an NFS client bypass its cache
        os.listdir(file.parent)
        return None if file.read_text() == token else f"{file} differs from that on the first node"
    except OSError as error:
        return f"{file.parent} is not the folder that the first node sees ({error.strerror})"


def _free(folder: Path) -> int | str:
    """Free bytes, or why they cannot be determined."""
    try:
        while not folder.exists():
            folder = folder.parent
        if not os.access(folder, os.W_OK):
            return f"{folder} cannot be written"
        return shutil.disk_usage(folder).free
    except OSError as error:
        return f"{folder}: {error.strerror}"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _nccl(env: dict[str, str]) -> str | None:
    """Version of the NCCL that torch loads here; None if torch cannot tell."""
    command = [sys.executable, "-c", "import torch; print(*torch.cuda.nccl.version(), sep='.')"]
    try:
        answer = subprocess.run(
            command, env=os.environ | env, capture_output=True, text=True, timeout=120, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def _gpus() -> list[dict[str, str]] | str:
    """Name, memory and driver of each visible GPU, or why they cannot be determined."""
    fields = "name,memory.total,driver_version"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"nvidia-smi failed: {error}"
    rows = [line.split(", ") for line in answer.stdout.splitlines() if line.strip()]
    return [dict(zip(("name", "memory", "driver"), row, strict=True)) for row in rows]


def _free_port(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    # a single write, so that the lines of several nodes do not mix
    sys.stdout.write(MARK + json.dumps(look(json.loads(sys.argv[1]))) + "\n")

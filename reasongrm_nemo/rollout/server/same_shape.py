# SPDX-License-Identifier: Apache-2.0
"""Decides whether one model's weights can be loaded over another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import read_object
from reasongrm_nemo.models.rope import Rope

# Keys that determine the parameters' shapes and the computation.  Keys that only describe the file (its
# author, the stored dtype) are left out.
_KEYS = (
    "architectures",
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "hidden_act",
    "rms_norm_eps",
    "attention_bias",
    "mlp_bias",
    "use_sliding_window",
)


def same_shape(first: Path, second: Path) -> bool:
    """Whether two Hugging Face folders have the same architecture and sizes."""
    return _shape(first) == _shape(second)


def _shape(folder: Path) -> dict[str, Any]:
    config = read_object(folder / "config.json")
    shape = {key: config.get(key) for key in _KEYS}
    heads = config.get("num_attention_heads") or 1
    shape["head_dim"] = config.get("head_dim") or (config.get("hidden_size") or 0) // heads
    shape["tied"] = config.get("tie_word_embeddings", False)
    shape["rope"] = _rope(config, str(folder / "config.json"))
    # A bias of None means the architecture's default, which is the same on both sides.
    return shape


def _rope(config: dict[str, Any], where: str) -> Any:
    """Rope parameters, independent of their spelling; a rope of unknown kind is compared as written."""
    try:
        return Rope.from_config(config, where)
    except (UserError, TypeError, ValueError):
        return [config.get(key) for key in ("rope_theta", "rope_scaling", "rope_parameters")]


def weights_stamp(folder: Path) -> str:
    """Names, sizes and times of the weight files; the stamp changes when the weights do."""
    files = sorted([*folder.glob("*.safetensors"), folder / "config.json"])
    parts = [f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files]
    return f"{folder.resolve()}|" + "|".join(parts)

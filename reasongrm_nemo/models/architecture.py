# SPDX-License-Identifier: Apache-2.0
"""A model's shape and rope, read strictly from config.json, and its parallel layout."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import read_object
from reasongrm_nemo.files.shapes import shaped
from reasongrm_nemo.models.config_keys import refuse_unsupported, short
from reasongrm_nemo.models.families import FAMILIES
from reasongrm_nemo.models.family import Family
from reasongrm_nemo.models.rope import Rope, reach


@dataclass(frozen=True)
class Architecture:
    """Shape of a decoder-only model, from its Hugging Face ``config.json``."""

    model_type: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    norm_eps: float
    tied: bool
    rope: Rope

    @property
    def family(self) -> Family:
        """The model's family: weights, Megatron settings, config keys."""
        return FAMILIES[self.model_type]

    @property
    def qkv_rows(self) -> tuple[int, int, int]:
        """Rows of the query, key and value projections."""
        return self.heads * self.head_dim, self.kv_heads * self.head_dim, self.kv_heads * self.head_dim

    @classmethod
    def from_folder(cls, folder: Path, rope: Mapping[str, Any] | None = None) -> Architecture:
        """Read ``config.json`` of a Hugging Face folder.

        Args:
            folder: folder with a config.json.
            rope: a recipe's ``model.rope``, which overrides the checkpoint's rope.

        Raises:
            UserError: the file does not exist or is not JSON, a key is missing, or the model is not supported
                (architecture, rope scaling, sliding window).
        """
        path = Path(folder) / "config.json"
        if not os.path.lexists(path):
            raise UserError(f"No checkpoint at {folder}: config.json is missing; check model.hf_path.")
        return cls.from_config(read_object(path), str(path), rope)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        where: str,
        rope: Mapping[str, Any] | None = None,
        served_only: bool = False,
    ) -> Architecture:
        """Read a parsed config; ``where`` names the file in errors.

        With ``served_only``, keys that training and conversion do not support are allowed.
        """
        shaped(config, {"model_type?": object, "architectures?": (list, type(None))}, where)
        model_type = config.get("model_type")
        if not isinstance(model_type, str) or model_type not in FAMILIES:
            raise UserError(
                f"{where}: model_type {model_type!r} is not supported; known: {', '.join(FAMILIES)}."
            )
        family = FAMILIES[model_type]
        if not served_only:
            refuse_unsupported(config, where, family)
        heads, hidden = _size(config, where, "num_attention_heads"), _size(config, where, "hidden_size")
        kv_heads = _size(config, where, "num_key_value_heads", heads)
        if heads % kv_heads:
            raise UserError(
                f"{where}: num_key_value_heads {kv_heads} does not divide num_attention_heads {heads}."
            )
        shape = cls(
            model_type=model_type,
            layers=_size(config, where, "num_hidden_layers"),
            hidden=hidden,
            ffn=_size(config, where, "intermediate_size"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=_size(config, where, "head_dim", hidden // heads),
            vocab=_size(config, where, "vocab_size"),
            norm_eps=_of_type(config.get("rms_norm_eps"), (int, float), "above 0", where, "rms_norm_eps"),
            tied=_of_type(
                config.get("tie_word_embeddings") or False,
                (bool,),
                "true or false",
                where,
                "tie_word_embeddings",
            ),
            rope=Rope.from_config(config, where, rope),
        )
        if not served_only and family.ropes and shape.rope.kind not in family.ropes:
            raise UserError(
                f"{where}: rope scaling {shape.rope.kind} is not supported for {model_type}; known: "
                f"{', '.join(family.ropes)}."
            )
        return shape


_MOST = {
    "num_hidden_layers": 1 << 14
}  # layers are listed one by one; other sizes are limited to 1 << 40, to keep sums of memory finite


def _size(config: Mapping[str, Any], where: str, key: str, otherwise: int | None = None) -> int:
    """A whole number from 1; `otherwise`, if given, is the default for a null or missing key."""
    value = config.get(key)
    return int(_of_type(otherwise if value is None else value, (int,), "a number from 1", where, key))


def _of_type(value: Any, kinds: tuple[type, ...], words: str, where: str, key: str) -> Any:
    if value is None:
        raise UserError(f"{where}: {key} is missing.")
    if type(value) not in kinds or (bool not in kinds and not 0 < value < _MOST.get(key, 1 << 40)):
        raise UserError(f"{where}: {key} is {short(value)}; it must be {words}.")
    return value


def exported_config(
    config: Mapping[str, Any], where: str, rope: Mapping[str, Any] | None, dtype: str
) -> dict[str, Any]:
    """config.json of an exported model, which transformers 4, transformers 5 and vLLM read the same way.

    Args:
        config: the parsed config.json of the initial model.
        where: the file's path, for errors.
        rope: a recipe's ``model.rope``; None keeps the rope of ``config``.
        dtype: dtype of the weights, such as bfloat16; written to the key that transformers 4 and 5 both read.
    """
    kept = {key: value for key, value in config.items() if key != "dtype"}
    return kept | Rope.from_config(config, where, rope).spelled() | {"torch_dtype": dtype}


def served_config(config: Mapping[str, Any], where: str, rope: Mapping[str, Any] | None) -> dict[str, Any]:
    """Overrides of config.json that make vLLM serve with the rope used in training.

    These are the recipe's ``model.rope``, or the checkpoint's rope if not every reader finds it. For models
    that are not supported here, only the recipe's rope is known.
    """
    if reach(rope) is None:
        try:
            Architecture.from_config(config, where)
        except UserError:
            return {}
    stated = Rope.from_config(config, where, rope).spelled()
    if all(config.get(key) == value for key, value in stated.items()):
        return {}
    return {key: value for key, value in stated.items() if value is not None}


@dataclass(frozen=True)
class Layout:
    """How a model is split: tensor-parallel ranks split each layer, pipeline stages split the layers.

    Attributes:
        tensor: number of tensor-parallel ranks.
        pipeline: number of pipeline stages.
        first: layers of the first stage if stages are uneven; None: as many as the others.
        last: layers of the last stage, likewise.
    """

    tensor: int = 1
    pipeline: int = 1
    first: int | None = None
    last: int | None = None

    @classmethod
    def of_cluster(cls, cluster: Any) -> Layout:
        """The layout in a recipe's ``cluster`` block."""
        return cls(
            cluster.tensor_parallel,
            cluster.pipeline_parallel,
            cluster.layers_in_first_stage,
            cluster.layers_in_last_stage,
        )

    def padded_vocab(self, vocab: int) -> int:
        """Rows of the embedding over all tensor-parallel ranks."""
        return -(-vocab // self.tensor) * self.tensor

    def check(self, architecture: Architecture, where: str) -> None:
        """Check that the layout divides the model; ``where`` names the config in errors."""
        if name := self.undivided(architecture.heads, architecture.kv_heads, architecture.ffn):
            raise UserError(f"{self.tensor} tensor-parallel ranks do not divide {name} of {where}.")
        if self.stages(architecture.layers) is None:
            ends = [n for n in (self.first, self.last) if n is not None]
            uneven = f" with {ends} layers at the ends" if ends else ""
            raise UserError(
                f"{self.pipeline} pipeline stages{uneven} do not divide "
                f"num_hidden_layers {architecture.layers} of {where}."
            )

    def fits(self, architecture: Architecture) -> bool:
        """Whether the layout divides the model."""
        sizes = architecture.heads, architecture.kv_heads, architecture.ffn
        return self.undivided(*sizes) is None and self.stages(architecture.layers) is not None

    def undivided(self, heads: int, kv_heads: int, ffn: int) -> str | None:
        """The first key of config.json, with its value, that the tensor-parallel size does not divide."""
        counts = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "intermediate_size": ffn}
        return next((f"{name} {count}" for name, count in counts.items() if count % self.tensor), None)

    def stages(self, layers: int) -> list[int] | None:
        """Layers of each pipeline stage, as megatron-core assigns them; None if they do not divide."""
        ends = [n for n in (self.first, self.last) if n is not None]
        inner = self.pipeline - len(ends)
        left = layers - sum(ends)
        fits = left == 0 if inner == 0 else inner > 0 and left >= 0 and left % inner == 0
        if not fits or (ends and inner and not left):
            return None
        counts = [left // inner] * inner if inner else []
        if self.first is not None:
            counts = [self.first, *counts]
        return [*counts, self.last] if self.last is not None else counts

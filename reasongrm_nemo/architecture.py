# SPDX-License-Identifier: Apache-2.0
"""What kind of model a checkpoint is: its shape and its rope, read strictly from config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.rope import Rope


@dataclass(frozen=True)
class _Family:
    """What tells one model_type of config.json from another."""

    qkv_bias: bool = False
    qk_norm: bool = False


FAMILIES = {
    "qwen2": _Family(qkv_bias=True),  # QwQ-32B, Qwen2.5
    "qwen3": _Family(qk_norm=True),
    "llama": _Family(),  # Llama 3.1, SmolLM2
}


@dataclass(frozen=True)
class Architecture:
    """Shape of a decoder-only model, as its Hugging Face ``config.json`` states it."""

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
    def qkv_bias(self) -> bool:
        """Whether query, key and value projections have a bias."""
        return FAMILIES[self.model_type].qkv_bias

    @property
    def qk_norm(self) -> bool:
        """Whether each head's query and key are normalised (Qwen3)."""
        return FAMILIES[self.model_type].qk_norm

    @classmethod
    def from_folder(cls, folder: Path, rope: Mapping[str, Any] | None = None) -> Architecture:
        """Read ``config.json`` of a Hugging Face folder.

        Args:
            folder: with a config.json.
            rope: a recipe's ``model.rope``, which goes before what the checkpoint says.

        Raises:
            UserError: no such file, not JSON, a key is missing, or something about the model is not
                supported (architecture, rope scaling, sliding window).
        """
        path = Path(folder) / "config.json"
        try:
            config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(
                f"No checkpoint at {folder}: config.json is missing; check model.hf_path."
            ) from None
        except ValueError as error:
            raise UserError(f"{path} is not valid JSON ({error}).") from None
        return cls.from_config(config, str(path), rope)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], where: str, rope: Mapping[str, Any] | None = None
    ) -> Architecture:
        """From the parsed config; ``where`` names it in errors."""
        model_type = config.get("model_type")
        if model_type not in FAMILIES:
            raise UserError(
                f"{where}: model_type {model_type!r} is not supported; known: {', '.join(FAMILIES)}."
            )
        refuse_unsupported(config, where)
        try:
            heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
            return cls(
                model_type=model_type,
                layers=int(config["num_hidden_layers"]),
                hidden=hidden,
                ffn=int(config["intermediate_size"]),
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or hidden // heads),
                vocab=int(config["vocab_size"]),
                norm_eps=float(config["rms_norm_eps"]),
                tied=bool(config.get("tie_word_embeddings", False)),
                rope=Rope.from_config(config, where, rope),
            )
        except KeyError as error:
            raise UserError(f"{where}: {error.args[0]} is missing.") from None
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: a size is not a number ({error}).") from None


def refuse_unsupported(config: Mapping[str, Any], where: str) -> None:
    """Parts of a model that no mapping here covers; a wrong guess would go unnoticed."""
    if config.get("use_sliding_window"):
        raise UserError(
            f"{where}: sliding-window attention is not supported; set use_sliding_window to false."
        )
    if config.get("hidden_act", "silu") != "silu":
        raise UserError(f"{where}: hidden_act {config['hidden_act']!r} is not supported; known: silu.")
    for key in ("mlp_bias", "attention_bias"):
        # Qwen2 has biases on query, key and value alone, and no key for them
        if config.get(key) and config.get("model_type") != "qwen2":
            raise UserError(f"{where}: {key} is true, which is not supported for {config['model_type']}.")
    if config.get("quantization_config"):
        raise UserError(f"{where}: the checkpoint is quantised; give one in bf16, fp16 or fp32.")


@dataclass(frozen=True)
class Layout:
    """How a model is cut: tensor-parallel ranks share each layer, pipeline stages share the stack.

    Attributes:
        tensor: tensor-parallel ranks.
        pipeline: pipeline stages.
        first: layers of the first stage where stages are uneven; None: as many as the others.
        last: layers of the last stage, likewise.
    """

    tensor: int = 1
    pipeline: int = 1
    first: int | None = None
    last: int | None = None

    @classmethod
    def of_cluster(cls, cluster: Any) -> Layout:
        """How a recipe's ``cluster`` cuts the model."""
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
        """Refuse a layout that does not divide the model; ``where`` names its config in the sentence."""
        if name := self.undivided(architecture.heads, architecture.kv_heads, architecture.ffn):
            raise UserError(f"{self.tensor} tensor-parallel ranks do not divide {name} of {where}.")
        if self.stages(architecture.layers) is None:
            ends = [n for n in (self.first, self.last) if n is not None]
            uneven = f" with {ends} layers at the ends" if ends else ""
            raise UserError(
                f"{self.pipeline} pipeline stages{uneven} do not divide "
                f"num_hidden_layers {architecture.layers} of {where}."
            )

    def undivided(self, heads: int, kv_heads: int, ffn: int) -> str | None:
        """The first key of config.json, with its count, that the tensor-parallel ranks do not divide."""
        counts = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "intermediate_size": ffn}
        return next((f"{name} {count}" for name, count in counts.items() if count % self.tensor), None)

    def stages(self, layers: int) -> list[int] | None:
        """Layers of each pipeline stage, as megatron-core deals them out; None where they do not come out."""
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

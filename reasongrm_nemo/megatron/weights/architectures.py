# SPDX-License-Identifier: Apache-2.0
"""Which mappings make up a model, and what its Hugging Face config says about its shape."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.megatron.weights.mappings import (
    QKV,
    GateUp,
    Mapping,
    Replicated,
    RowParallel,
    Vocabulary,
)

# model_type in config.json -> whether query, key and value have a bias when the config does not say
_QKV_BIAS = {"qwen2": True, "llama": False}


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
    rope_theta: float
    tied: bool
    qkv_bias: bool

    @classmethod
    def from_folder(cls, folder: Path) -> Architecture:
        """Read ``config.json`` of a Hugging Face folder.

        Raises:
            UserError: no such file, not JSON, a key is missing, or something about the model is not
                supported (architecture, rope scaling, sliding window).
        """
        path = Path(folder) / "config.json"
        try:
            config: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            raise UserError(
                f"No checkpoint at {folder}: config.json is missing; check model.hf_path."
            ) from None
        except ValueError as error:
            raise UserError(f"{path} is not valid JSON ({error}).") from None
        return cls.from_config(config, str(path))

    @classmethod
    def from_config(cls, config: dict[str, Any], where: str) -> Architecture:
        """From the parsed config; ``where`` names it in errors."""
        model_type = config.get("model_type")
        if model_type not in _QKV_BIAS:
            raise UserError(
                f"{where}: model_type {model_type!r} is not supported; known: {', '.join(_QKV_BIAS)}."
            )
        # transformers 5 nests rope_theta, 4 has it on top; the default of either is silently wrong
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        theta = config.get("rope_theta", rope.get("rope_theta"))
        if theta is None:
            raise UserError(
                f"{where}: rope_theta is missing; write it out, defaults differ between versions."
            )
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", None):
            raise UserError(f"{where}: rope scaling {kind!r} is not supported yet.")
        if config.get("use_sliding_window"):
            raise UserError(
                f"{where}: sliding-window attention is not supported; set use_sliding_window to false."
            )
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
                rope_theta=float(theta),
                tied=bool(config.get("tie_word_embeddings", False)),
                qkv_bias=bool(config.get("attention_bias", _QKV_BIAS[model_type])),
            )
        except KeyError as error:
            raise UserError(f"{where}: {error.args[0]} is missing.") from None

    def padded_vocab(self, tensor_parallel: int) -> int:
        """Rows of the embedding over all tensor-parallel ranks."""
        return -(-self.vocab // tensor_parallel) * tensor_parallel

    def outer_mappings(self, tensor_parallel: int) -> list[Mapping]:
        """Mappings outside the layers: embedding, final norm and, unless tied, the output layer."""
        vocabulary = {"size": self.vocab, "padded": self.padded_vocab(tensor_parallel)}
        mappings: list[Mapping] = [
            Vocabulary("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), **vocabulary),
            Replicated("decoder.final_layernorm.weight", ("model.norm.weight",)),
        ]
        if not self.tied:
            mappings.append(Vocabulary("output_layer.weight", ("lm_head.weight",), **vocabulary))
        return mappings

    def layer_mappings(self, transformer_engine: bool) -> list[Mapping]:
        """Mappings of one decoder layer; Transformer Engine fuses the norms into the layers after them."""
        ours, theirs = "decoder.layers.{layer}.", "model.layers.{layer}."
        if transformer_engine:
            norms = ("self_attention.linear_qkv.layer_norm_weight", "mlp.linear_fc1.layer_norm_weight")
        else:
            norms = ("input_layernorm.weight", "pre_mlp_layernorm.weight")
        qkv = {"groups": self.kv_heads, "queries": self.heads // self.kv_heads, "head_dim": self.head_dim}

        def projections(kind: str) -> tuple[str, ...]:
            return tuple(f"{theirs}self_attn.{p}_proj.{kind}" for p in "qkv")

        mappings: list[Mapping] = [
            Replicated(ours + norms[0], (theirs + "input_layernorm.weight",)),
            QKV(ours + "self_attention.linear_qkv.weight", projections("weight"), **qkv),
            RowParallel(ours + "self_attention.linear_proj.weight", (theirs + "self_attn.o_proj.weight",)),
            Replicated(ours + norms[1], (theirs + "post_attention_layernorm.weight",)),
            GateUp(
                ours + "mlp.linear_fc1.weight",
                (theirs + "mlp.gate_proj.weight", theirs + "mlp.up_proj.weight"),
            ),
            RowParallel(ours + "mlp.linear_fc2.weight", (theirs + "mlp.down_proj.weight",)),
        ]
        if self.qkv_bias:
            mappings.insert(2, QKV(ours + "self_attention.linear_qkv.bias", projections("bias"), **qkv))
        return mappings

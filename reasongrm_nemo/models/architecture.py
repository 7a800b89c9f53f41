# SPDX-License-Identifier: Apache-2.0
"""What kind of model a checkpoint is: its shape and its rope, read strictly from config.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import read_object
from reasongrm_nemo.files.shapes import shaped
from reasongrm_nemo.models.rope import Rope, reach


@dataclass(frozen=True)
class _Family:
    """What tells one model_type of config.json from another.

    Attributes:
        qkv_bias: query, key and value projections have a bias.
        qk_norm: each head's query and key are normalised.
        wide_heads: head_dim may be another than hidden_size / num_attention_heads.
        unread: further keys of config.json that change nothing.
    """

    qkv_bias: bool = False
    qk_norm: bool = False
    wide_heads: bool = True
    unread: frozenset[str] = frozenset()


# transformers and vLLM read it where use_sliding_window is true, which is refused
_WINDOW = frozenset({"sliding_window"})
FAMILIES = {
    # QwQ-32B, Qwen2.5; vLLM's Qwen2 does not read head_dim
    "qwen2": _Family(qkv_bias=True, wide_heads=False, unread=_WINDOW),
    "qwen3": _Family(qk_norm=True, unread=_WINDOW),
    "llama": _Family(),  # Llama 3.1, SmolLM2
}


def _names(*lines: str) -> frozenset[str]:
    return frozenset(name for line in lines for name in line.split())


# A model is taken only where each key of its config.json is known: read by Architecture or Rope, of no
# effect on what is computed, or at a value where it has none. null is such a value of every key.
_READ = _names(
    "model_type num_hidden_layers hidden_size intermediate_size num_attention_heads num_key_value_heads",
    "head_dim vocab_size rms_norm_eps tie_word_embeddings max_position_embeddings rope_theta rope_scaling",
    "rope_parameters partial_rotary_factor architectures",
)
_UNREAD = _names(
    # who wrote the file, with what, in which dtype
    "name_or_path transformers_version torch_dtype dtype use_bfloat16",
    "tf_legacy_loss is_llama_config unsloth_fixed unsloth_version transformers.js_config initializer_range",
    # how a library runs it
    "use_cache torchscript return_dict return_dict_in_generate output_attentions output_hidden_states",
    "output_scores chunk_size_feed_forward gradient_checkpointing pretraining_tp attn_implementation",
    "use_flash_attn max_window_layers model_max_length max_sequence_length max_seq_len seq_length",
    # how it was sampled; generation_config.json and the recipe say that
    "do_sample temperature top_k top_p typical_p repetition_penalty length_penalty diversity_penalty",
    "num_beams num_beam_groups num_return_sequences early_stopping max_length min_length",
    "no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids suppress_tokens",
    "begin_suppress_tokens prefix exponential_decay_length_penalty remove_invalid_values",
    # heads of other tasks
    "finetuning_task problem_type task_specific_params num_labels id2label label2id classifier_dropout",
    "tokenizer_class is_decoder",
)
_TOKEN = "_token_id"
"""Names of tokens, such as eos_token_id."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "bias": (False,),
    "use_sliding_window": (False,),
    "layer_types": ("full_attention",),
    "is_causal": (True,),
    "rope_interleaved": (False,),
    "use_mrope": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_encoder_decoder": (False,),
    "pruned_heads": ({},),
    **dict.fromkeys(("logit_scale", "logits_scaling", "embedding_multiplier", "residual_multiplier"), (1,)),
    # of training in other libraries; none is trained with here
    **dict.fromkeys(("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"), (0,)),
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
        """From the parsed config; ``where`` names it in errors.

        A model that is ``served_only`` may have keys that no mapping here covers; its sizes are asked for.
        """
        shaped(config, {"model_type?": object, "architectures?": (list, type(None))}, where)
        model_type = config.get("model_type")
        if not isinstance(model_type, str) or model_type not in FAMILIES:
            raise UserError(
                f"{where}: model_type {model_type!r} is not supported; known: {', '.join(FAMILIES)}."
            )
        if not served_only:
            _refuse_unsupported(config, where)
        heads, hidden = _size(config, where, "num_attention_heads"), _size(config, where, "hidden_size")
        kv_heads = _size(config, where, "num_key_value_heads", heads)
        if heads % kv_heads:
            raise UserError(
                f"{where}: num_key_value_heads {kv_heads} does not divide num_attention_heads {heads}."
            )
        return cls(
            model_type=model_type,
            layers=_size(config, where, "num_hidden_layers"),
            hidden=hidden,
            ffn=_size(config, where, "intermediate_size"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=_size(config, where, "head_dim", hidden // heads),
            vocab=_size(config, where, "vocab_size"),
            norm_eps=_of_type(config.get("rms_norm_eps"), (int, float), "a number", where, "rms_norm_eps"),
            tied=_of_type(
                config.get("tie_word_embeddings") or False,
                (bool,),
                "true or false",
                where,
                "tie_word_embeddings",
            ),
            rope=Rope.from_config(config, where, rope),
        )


_MOST = 1 << 40  # of anything a model has; from larger ones no memory can be reckoned


def _size(config: Mapping[str, Any], where: str, key: str, otherwise: int | None = None) -> int:
    """A whole number from 1; `otherwise`, if there is one, where the key is null or missing."""
    value = config.get(key)
    return int(_of_type(otherwise if value is None else value, (int,), "a number from 1", where, key))


def _of_type(value: Any, kinds: tuple[type, ...], words: str, where: str, key: str) -> Any:
    if value is None:
        raise UserError(f"{where}: {key} is missing.")
    if type(value) not in kinds or (kinds == (int,) and not 1 <= value < _MOST):
        raise UserError(f"{where}: {key} is {_short(value)}; it must be {words}.")
    return value


def _refuse_unsupported(config: Mapping[str, Any], where: str) -> None:
    """Parts of a model that no mapping here covers; a wrong guess would go unnoticed."""
    model_type, family = config["model_type"], FAMILIES[config["model_type"]]
    if config.get("quantization_config"):
        raise UserError(f"{where}: the checkpoint is quantised; give one in bf16, fp16 or fp32.")
    if config.get("use_sliding_window"):
        raise UserError(
            f"{where}: sliding-window attention is not supported; set use_sliding_window to false."
        )
    neutral = _NEUTRAL | {"qkv_bias": (family.qkv_bias,), "qk_norm": (family.qk_norm,)}
    for key, value in config.items():
        if value is None or key in _READ | _UNREAD | family.unread or key.endswith(_TOKEN):
            continue
        if key.startswith("_"):  # a library's note to itself, such as _name_or_path; no model reads one
            continue
        values = value if isinstance(value, list) else [value]
        if key not in neutral:
            raise UserError(
                f"{where}: {key} is {_short(value)}, which nothing here computes for {model_type}; remove "
                "the key if the model is the same without it."
            )
        if any(each not in neutral[key] for each in values):
            known = ", ".join(json.dumps(each) for each in neutral[key])
            raise UserError(
                f"{where}: {key} is {_short(value)}, which is not supported for {model_type}; known: {known}."
            )
    _refuse_heads(config, where)


def _refuse_heads(config: Mapping[str, Any], where: str) -> None:
    """Another head than the language model's, and attention heads of a width that not every engine reads."""
    model_type = config["model_type"]
    others = [
        name
        for name in config.get("architectures") or []
        if str(name).lower() != f"{model_type}forcausallm".lower()
    ]
    if others:
        raise UserError(
            f"{where}: architectures is {_short(config['architectures'])}, which is not supported for "
            f"{model_type}; it must be its ForCausalLM."
        )
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if FAMILIES[model_type].wide_heads or not config.get("head_dim") or not heads or not hidden:
        return
    if config["head_dim"] * heads != hidden:
        raise UserError(
            f"{where}: head_dim is {config['head_dim']}, which not every engine reads for {model_type}; it "
            f"must be hidden_size / num_attention_heads = {hidden / heads:g}."
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def exported_config(
    config: Mapping[str, Any], where: str, rope: Mapping[str, Any] | None, dtype: str
) -> dict[str, Any]:
    """config.json of an exported model, so written that transformers 4 and 5 and vLLM read the same in it.

    Args:
        config: the parsed config.json that the model began with.
        where: its path, for errors.
        rope: a recipe's ``model.rope``; None: as ``config`` says.
        dtype: of the weights, such as bfloat16; said in the key that transformers 4 and 5 both read.
    """
    kept = {key: value for key, value in config.items() if key != "dtype"}
    return kept | Rope.from_config(config, where, rope).spelled() | {"torch_dtype": dtype}


def served_config(config: Mapping[str, Any], where: str, rope: Mapping[str, Any] | None) -> dict[str, Any]:
    """Keys of config.json that vLLM must be told, so that it serves with the rope that is trained with.

    They are the recipe's ``model.rope``, and the checkpoint's own rope where not every reader finds it. Of
    models that no mapping here covers nothing is known but the recipe's.
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

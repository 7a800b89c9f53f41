# SPDX-License-Identifier: Apache-2.0
"""The known keys of config.json; a model with any other key is refused by the key's name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models.family import Family


def _names(*lines: str) -> frozenset[str]:
    return frozenset(name for line in lines for name in line.split())


# A model is accepted only if each key of its config.json is known: read by Architecture or Rope, without
# effect on the computation, or at a value without effect. For every key, null has no effect.
_READ = _names(
    "model_type num_hidden_layers hidden_size intermediate_size num_attention_heads num_key_value_heads",
    "head_dim vocab_size rms_norm_eps tie_word_embeddings max_position_embeddings rope_theta rope_scaling",
    "rope_parameters partial_rotary_factor architectures",
)
_UNREAD = _names(
    # author, software and dtype of the file
    "name_or_path transformers_version torch_dtype dtype use_bfloat16",
    "tf_legacy_loss is_llama_config unsloth_fixed unsloth_version transformers.js_config initializer_range",
    # how a library runs the model
    "use_cache torchscript return_dict return_dict_in_generate output_attentions output_hidden_states",
    "output_scores chunk_size_feed_forward gradient_checkpointing pretraining_tp attn_implementation",
    "use_flash_attn max_window_layers model_max_length max_sequence_length max_seq_len seq_length",
    # sampling options, which are taken from the recipe instead
    "do_sample temperature top_k top_p typical_p repetition_penalty length_penalty diversity_penalty",
    "num_beams num_beam_groups num_return_sequences early_stopping max_length min_length",
    "no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids suppress_tokens",
    "begin_suppress_tokens prefix exponential_decay_length_penalty remove_invalid_values",
    # heads of other tasks
    "finetuning_task problem_type task_specific_params num_labels id2label label2id classifier_dropout",
    "tokenizer_class is_decoder",
)
_TOKEN = "_token_id"
"""Suffix of keys for token ids, such as eos_token_id."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "bias": (False,),
    "qkv_bias": (False,),
    "qk_norm": (False,),
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
    # dropout in training with other libraries; unused here
    **dict.fromkeys(("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"), (0,)),
}


def refuse_unsupported(config: Mapping[str, Any], where: str, family: Family) -> None:
    """Refuse models with parts that are not supported here; a wrong guess would go unnoticed."""
    if config.get("quantization_config"):
        raise UserError(f"{where}: the checkpoint is quantised; use one in bf16, fp16 or fp32.")
    if config.get("use_sliding_window"):
        raise UserError(
            f"{where}: sliding-window attention is not supported; set use_sliding_window to false."
        )
    neutral = {**_NEUTRAL, **family.neutral}
    for key, value in config.items():
        if value is None or key in _READ | _UNREAD | family.unread or key.endswith(_TOKEN):
            continue
        if key.startswith("_"):  # a library's private key, such as _name_or_path; models do not read these
            continue
        values = value if isinstance(value, list) else [value]
        if key not in neutral:
            raise UserError(
                f"{where}: {key} is {short(value)}, which is not supported for {family.model_type}; "
                "remove the key if it does not affect the model."
            )
        if any(entry not in neutral[key] for entry in values):
            known = ", ".join(json.dumps(entry) for entry in neutral[key])
            raise UserError(
                f"{where}: {key} is {short(value)}, which is not supported for {family.model_type}; "
                f"known: {known}."
            )
    for key in family.stated:
        if key not in config:
            raise UserError(f"{where}: {key} is missing; set it explicitly, as engines' defaults differ.")
    for key in family.absent:
        if key in config:
            raise UserError(
                f"{where}: {key} is present, so engines read a different model than {family.model_type}; "
                "remove the key if all layers have full attention."
            )
    _refuse_heads(config, where, family)


def _refuse_heads(config: Mapping[str, Any], where: str, family: Family) -> None:
    """Refuse heads other than a language model's, and a head_dim that not every engine reads."""
    model_type = family.model_type
    others = [
        name
        for name in config.get("architectures") or []
        if str(name).lower() != f"{model_type}forcausallm".lower()
    ]
    if others:
        raise UserError(
            f"{where}: architectures is {short(config['architectures'])}, which is not supported for "
            f"{model_type}; it must be its ForCausalLM."
        )
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if family.wide_heads or not config.get("head_dim") or not heads or not hidden:
        return
    if config["head_dim"] * heads != hidden:
        raise UserError(
            f"{where}: head_dim is {config['head_dim']}, which not every engine reads for {model_type}; it "
            f"must be hidden_size / num_attention_heads = {hidden / heads:g}."
        )


def short(value: Any) -> str:
    """A value as JSON, truncated to 60 characters for errors."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

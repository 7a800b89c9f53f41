# SPDX-License-Identifier: Apache-2.0
"""A model is accepted only if every key of its config.json is known: read, without effect, or neutral."""

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.models.families import FAMILIES
from reasongrm_nemo.models.family import Family

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 422,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 512,
    "hidden_act": "silu",
}
# the keys of published config.json files of every family, at this size
PUBLISHED = {
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "initializer_range": 0.02,
        "max_window_layers": 64,
        "sliding_window": 32768,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.43.1",
        "use_cache": True,
        "use_mrope": False,
        "use_sliding_window": False,
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": 128,
        "layer_types": ["full_attention", "full_attention"],
        "max_window_layers": 28,
        "rope_scaling": None,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
    },
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "eos_token_id": [128001, 128008, 128009],
        "is_llama_config": True,
        "mlp_bias": False,
        "pad_token_id": 2,
        "pretraining_tp": 1,
        "rope_interleaved": False,
        "_model_name_or_path": "SmolLM2 135M",  # from a GGUF file read by transformers
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
        "unsloth_fixed": True,
        "use_cache": True,
    },
    "mistral": {
        "architectures": ["MistralForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "head_dim": 128,
        "initializer_range": 0.02,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_cache": True,
    },
    "phi3": {
        "_name_or_path": "Phi-4",
        "architectures": ["Phi3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "embd_pdrop": 0.0,
        "original_max_position_embeddings": 512,
        "pad_token_id": 100349,
        "resid_pdrop": 0.0,
        "rope_scaling": None,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_cache": True,
    },
}


def read(model_type, **changes):
    return Architecture.from_config(
        {"model_type": model_type} | SIZES | PUBLISHED[model_type] | changes, "config.json"
    )


@pytest.mark.parametrize("model_type", list(PUBLISHED))
def test_published_configs_are_accepted(model_type):
    assert read(model_type).hidden == 64


@pytest.mark.parametrize("model_type", list(PUBLISHED))
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention_bias", True),
        ("mlp_bias", True),
        ("use_sliding_window", True),
        ("layer_types", ["full_attention", "sliding_attention"]),
        ("hidden_act", "gelu"),
        ("logit_scale", 0.25),
        ("logits_scaling", 8.0),
        ("final_logit_softcapping", 30.0),
        ("embedding_multiplier", 12.0),
        ("residual_multiplier", 0.22),
        ("attention_multiplier", 0.0078125),
        ("is_causal", False),
        ("attention_dropout", 0.1),
        ("rope_interleaved", True),
        ("dual_chunk_attention_config", {"chunk_size": 262144}),
        ("num_experts", 8),
        ("auto_map", {"AutoModelForCausalLM": "modeling.Own"}),
        ("architectures", ["Qwen2ForRewardModel"]),
        ("partial_rotary_factor", 0.5),
        ("quantization_config", {"bits": 4}),
        ("a_key_of_next_year", 0),
    ],
)
def test_what_would_change_the_computation_is_refused_by_name(model_type, key, value):
    named = {"use_sliding_window": "sliding-window", "quantization_config": "quantised"}.get(key, key)
    with pytest.raises(UserError, match=f"^config.json: .*{named}"):
        read(model_type, **{key: value})
    if key not in ("hidden_act", *FAMILIES[model_type].absent):
        assert read(model_type, **{key: None})


@pytest.mark.parametrize("model_type", [name for name in PUBLISHED if name != "phi3"])
def test_a_key_that_only_phi3_has_is_refused_elsewhere(model_type):
    with pytest.raises(UserError, match=r"^config.json: original_max_position_embeddings is 256"):
        read(model_type, original_max_position_embeddings=256)


def test_a_head_width_that_one_engine_ignores_is_refused():
    """vLLM's Qwen2 uses hidden_size / num_attention_heads whatever head_dim says."""
    assert read("qwen2", head_dim=16).head_dim == 16
    with pytest.raises(UserError, match=r"head_dim is 32, .* num_attention_heads = 16"):
        read("qwen2", head_dim=32)
    assert read("llama", head_dim=32).head_dim == 32 == read("qwen3", head_dim=32).head_dim


def test_a_family_added_as_documented_is_held_to_its_keys(monkeypatch):
    """A Ministral with its window would be trained with full attention."""
    llama = FAMILIES["llama"]
    monkeypatch.setitem(FAMILIES, "ministral", Family("ministral", llama.layer))
    config = SIZES | {"model_type": "ministral", "architectures": ["MinistralForCausalLM"]}
    assert (
        Architecture.from_config(config | {"sliding_window": None}, "config.json").model_type == "ministral"
    )
    with pytest.raises(
        UserError, match=r"^config.json: sliding_window is 4096, .* for ministral; remove the key"
    ):
        Architecture.from_config(config | {"sliding_window": 4096}, "config.json")


@pytest.mark.parametrize("model_type", ["mistral", "phi3"])
def test_a_sliding_window_is_refused(model_type):
    with pytest.raises(UserError, match=rf"sliding_window is 4096, .* for {model_type}; known: null\.$"):
        read(model_type, sliding_window=4096)


def test_a_mistral_that_engines_read_as_another_model_is_refused():
    """Transformers 5 and vLLM read a Mistral with layer_types, whatever they are, as a Ministral."""
    for kinds in (["full_attention", "full_attention"], None):
        with pytest.raises(UserError, match=r"layer_types is present, .* a different model than mistral"):
            read("mistral", layer_types=kinds)


@pytest.mark.parametrize("key", ["sliding_window", "num_key_value_heads"])
def test_keys_with_a_default_of_transformers_must_be_explicit_for_mistral(key):
    """Transformers would add a window of 4,096 positions and 8 key-value heads."""
    config = {"model_type": "mistral"} | SIZES | PUBLISHED["mistral"]
    del config[key]
    with pytest.raises(UserError, match=f"^config.json: {key} is missing; set it explicitly"):
        Architecture.from_config(config, "config.json")
    assert Architecture.from_config(config, "config.json", served_only=True).hidden == 64


def test_a_rope_that_engines_scale_in_different_ways_is_refused():
    """For Phi3, transformers 5 reads yarn as longrope, and transformers 4 refuses it."""
    recipe = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    for model_type in ("mistral", "llama"):
        config = {"model_type": model_type} | SIZES | PUBLISHED[model_type]
        assert Architecture.from_config(config, "config.json", recipe).rope.kind == "yarn"
    with pytest.raises(UserError, match=r"rope scaling yarn is not supported for phi3; known: default"):
        Architecture.from_config({"model_type": "phi3"} | SIZES | PUBLISHED["phi3"], "config.json", recipe)


def test_only_sizes_are_read_of_a_model_that_is_only_served():
    config = {"model_type": "llama"} | SIZES | {"logit_scale": 0.25}
    assert Architecture.from_config(config, "config.json", served_only=True).hidden == 64

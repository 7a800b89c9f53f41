# SPDX-License-Identifier: Apache-2.0
"""Rope: the same frequencies as transformers, said once, and refused where engines would differ."""

import math
from types import SimpleNamespace

import pytest
import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.megatron.rope import apply, inverse_frequencies, softmax_scale
from reasongrm_nemo.rope import Rope, overrides

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
def test_frequencies_are_those_of_transformers_to_the_bit(scaling, length, theta):
    config = {"rope_theta": theta, "rope_scaling": scaling, "max_position_embeddings": length}
    theirs = LlamaConfig(hidden_size=5120, num_attention_heads=40, head_dim=128, **config)
    kind = scaling["rope_type"] if scaling else "default"
    frequencies, attention = ROPE_INIT_FUNCTIONS[kind](theirs, device="cpu")
    rope = Rope.from_config(config, "config.json")
    assert torch.equal(inverse_frequencies(rope, 128), frequencies)
    assert rope.attention_factor == attention
    assert (softmax_scale(rope, 128) or 1 / math.sqrt(128)) == attention**2 / math.sqrt(128)


def test_a_recipe_goes_before_the_checkpoint_and_reads_back_as_itself():
    config = {"rope_theta": 1e6, "max_position_embeddings": 40960}
    recipe = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    rope = Rope.from_config(config, "config.json", recipe)
    assert (rope.kind, rope.factor, rope.original, rope.max_positions) == ("yarn", 4.0, 32768, 131072)
    assert Rope.from_config(config | overrides(config, recipe), "config.json") == rope
    assert overrides(config, {"type": None}) == {} == overrides(config, None)


@pytest.mark.parametrize(
    ("scaling", "length", "message"),
    [
        # transformers 4 would take 40,960 / 32,768 for the factor, vLLM 4
        (YARN, 40960, "131072, not 40960"),
        (YARN | {"truncate": False}, 131072, "truncate"),
        (YARN | {"mscale": 1.0}, 131072, "mscale"),
        ({"rope_type": "yarn", "factor": 4.0}, 131072, "lacks original_max_position_embeddings"),
        ({"rope_type": "longrope", "factor": 4.0}, 131072, "longrope"),
        (LLAMA_31 | {"factor": None}, 131072, "lacks factor"),
    ],
)
def test_what_engines_read_differently_is_refused(scaling, length, message):
    config = {"rope_theta": 1e6, "rope_scaling": scaling, "max_position_embeddings": length}
    with pytest.raises(UserError, match=message):
        Rope.from_config(config, "config.json")


def test_angles_of_few_lengths_are_kept(monkeypatch):
    """megatron-core keeps those of 32, a gibibyte at 65,536 positions."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: "cpu")
    embedding = RotaryEmbedding(64, 1.0, use_cpu_initialization=True)
    rope = Rope.from_config({"rope_theta": 1e4, "max_position_embeddings": 128}, "config.json")
    apply(SimpleNamespace(rotary_pos_emb=embedding), rope, 64)
    for length in range(16, 48):
        angles = embedding(length)
        assert angles.shape == (length, 1, 1, 64)
        assert torch.equal(angles[-1, 0, 0, :32], (length - 1) * inverse_frequencies(rope, 64))
    assert embedding(length) is angles
    assert embedding.forward.cache_info().currsize <= 4


def test_linear_rope_from_a_recipe_is_what_engines_read():
    config = {"rope_theta": 1e4, "max_position_embeddings": 4096}
    recipe = {"type": "linear", "factor": 2.0, "original_max_position_embeddings": 4096}
    rope = Rope.from_config(config, "config.json", recipe)
    assert (rope.kind, rope.factor, rope.max_positions) == ("linear", 2.0, 8192)
    written = overrides(config, recipe)
    assert written["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}
    assert Rope.from_config(config | written, "config.json") == rope


@pytest.mark.parametrize(
    ("nested", "says"),
    [
        ({"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_type": "default", "rope_theta": 1e5}, "rope_theta is 1e\\+06 and, .* 100000"),
    ],
)
def test_parameters_that_engines_read_otherwise_are_refused_wherever_they_stand(nested, says):
    with pytest.raises(UserError, match=says):
        Rope.from_config({"rope_theta": 1e6, "rope_parameters": nested}, "config.json")

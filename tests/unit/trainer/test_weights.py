# SPDX-License-Identifier: Apache-2.0
"""Weight mappings: both directions, any number of ranks; and configs that are refused."""

import json

import pytest
import torch

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.megatron.weights.architectures import Architecture
from reasongrm_nemo.megatron.weights.hf_folder import HFTensors
from reasongrm_nemo.megatron.weights.mappings import QKV, GateUp, Replicated, RowParallel, Vocabulary

MAPPINGS = [
    (Replicated("n", ("n",)), [(8,)]),
    (RowParallel("o", ("o",)), [(6, 8)]),
    (Vocabulary("e", ("e",), size=10, padded=12), [(10, 4)]),
    (QKV("qkv", ("q", "k", "v"), groups=4, queries=3, head_dim=2), [(24, 5), (8, 5), (8, 5)]),
    (QKV("b", ("q", "k", "v"), groups=4, queries=3, head_dim=2), [(24,), (8,), (8,)]),
    (GateUp("fc1", ("g", "u")), [(12, 4), (12, 4)]),
]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize(("mapping", "shapes"), MAPPINGS)
def test_round_trip_is_exact(mapping, shapes, size):
    tensors = [torch.randn(shape) for shape in shapes]
    shards = [mapping.shard(tensors, rank, size) for rank in range(size)]
    for before, after in zip(tensors, mapping.join(shards), strict=True):
        assert torch.equal(before, after)


def test_qkv_is_interleaved_by_group():
    q, k, v = torch.arange(8.0), torch.tensor([10.0, 11, 12, 13]), torch.tensor([20.0, 21, 22, 23])
    mapping = QKV("b", ("q", "k", "v"), groups=2, queries=2, head_dim=2)
    assert mapping.shard([q, k, v], 0, 1).tolist() == [0, 1, 2, 3, 10, 11, 20, 21, 4, 5, 6, 7, 12, 13, 22, 23]
    assert mapping.shard([q, k, v], 1, 2).tolist() == [4, 5, 6, 7, 12, 13, 22, 23]


QWEN2 = {
    "model_type": "qwen2",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "tie_word_embeddings": True,
}


def test_names_are_used_once_on_both_sides():
    architecture = Architecture.from_config(QWEN2, "config.json")
    mappings = [*architecture.layer_mappings(False), *architecture.outer_mappings(1)]
    megatron = [m.megatron for m in mappings]
    hugging_face = [name for m in mappings for name in m.hf]
    assert len(set(megatron)) == len(megatron) and len(set(hugging_face)) == len(hugging_face)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"rope_theta": None}, "rope_theta"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"use_sliding_window": True}, "sliding"),
        ({"rms_norm_eps": None}, "rms_norm_eps"),
    ],
)
def test_refused_configs_name_the_reason(change, message):
    config = {key: value for key, value in (QWEN2 | change).items() if value is not None}
    with pytest.raises(UserError, match=message):
        Architecture.from_config(config, "config.json")


def test_rope_theta_is_read_from_transformers_5_too():
    config = {k: v for k, v in QWEN2.items() if k != "rope_theta"} | {"rope_parameters": {"rope_theta": 5e5}}
    assert Architecture.from_config(config, "config.json").rope_theta == 5e5


def test_missing_and_damaged_checkpoints_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        Architecture.from_folder(tmp_path / "nowhere")
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(UserError, match="damaged"):
        HFTensors(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "missing.safetensors"}})
    )
    with pytest.raises(UserError, match="No checkpoint"):
        HFTensors(tmp_path)

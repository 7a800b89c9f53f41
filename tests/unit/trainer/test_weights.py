# SPDX-License-Identifier: Apache-2.0
"""Weight mappings in both directions for any number of ranks; and configs that are refused."""

import json

import pytest
import torch

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.megatron.weights.hf_folder import HFTensors
from reasongrm_nemo.megatron.weights.mappings import (
    QKV,
    FusedQKV,
    GateUp,
    Replicated,
    RowParallel,
    Vocabulary,
)
from reasongrm_nemo.megatron.weights.names import parameters
from reasongrm_nemo.models.architecture import Architecture

MAPPINGS = [
    Replicated("n", ("n",), ((8,),)),
    RowParallel("o", ("o",), ((6, 8),)),
    Vocabulary("e", ("e",), ((10, 4),)),
    Vocabulary("e", ("e",), ((9, 4),)),
    QKV("qkv", ("q", "k", "v"), ((24, 5), (8, 5), (8, 5)), groups=4),
    QKV("b", ("q", "k", "v"), ((24,), (8,), (8,)), groups=4),
    FusedQKV("qkv", ("qkv",), ((40, 5),), groups=4, rows=(24, 8, 8)),
    GateUp("fc1", ("g", "u"), ((12, 4), (12, 4))),
    GateUp("fc1", ("gu",), ((24, 4),)),
]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_round_trip_is_exact(mapping, size):
    tensors = [torch.randn(shape) for shape in mapping.shapes]
    shards = [mapping.shard(tensors, rank, size) for rank in range(size)]
    assert len({shard.shape for shard in shards}) == 1
    for before, after in zip(tensors, mapping.join(torch.stack(shards)), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_slices_of_all_ranks_cover_every_tensor_exactly_once(mapping, size):
    tensors = [torch.randn(shape) for shape in mapping.shapes]
    whole = torch.full(mapping.shape, float("nan"))
    for rank in range(1 if mapping.axis is None else size):
        for box in mapping.boxes(rank, size):
            part = whole[tuple(slice(*span) for span in box)]
            assert part.isnan().all()
            part.copy_(mapping.read(tensors, box))
    assert not whole.isnan().any()
    for index, tensor in enumerate(tensors):
        box = tuple(slice(*span) for span in mapping.needed_for(index))
        assert torch.equal(mapping.pick(whole[box], index), tensor)


def test_a_padded_vocabulary_is_padded_with_zeros():
    mapping = Vocabulary("e", ("e",), ((9, 4),))
    last = mapping.shard([torch.ones(9, 4)], 3, 4)
    assert last.shape == (3, 4) and not last.any()


def test_gate_and_up_are_stacked_on_every_rank():
    gate, up = torch.arange(4.0)[:, None], torch.arange(10.0, 14.0)[:, None]
    mapping = GateUp("fc1", ("g", "u"), ((4, 1), (4, 1)))
    assert mapping.shard([gate, up], 1, 2).flatten().tolist() == [2, 3, 12, 13]


def test_qkv_is_interleaved_by_group():
    q, k, v = torch.arange(8.0), torch.tensor([10.0, 11, 12, 13]), torch.tensor([20.0, 21, 22, 23])
    mapping = QKV("b", ("q", "k", "v"), ((8,), (4,), (4,)), groups=2)
    assert mapping.shard([q, k, v], 0, 1).tolist() == [0, 1, 2, 3, 10, 11, 20, 21, 4, 5, 6, 7, 12, 13, 22, 23]
    assert mapping.shard([q, k, v], 1, 2).tolist() == [4, 5, 6, 7, 12, 13, 22, 23]
    fused = FusedQKV("b", ("qkv",), ((16,),), groups=2, rows=(8, 4, 4))
    assert fused.shard([torch.cat([q, k, v])], 1, 2).tolist() == [4, 5, 6, 7, 12, 13, 22, 23]


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


def test_parameter_names_are_unique_on_both_sides():
    architecture = Architecture.from_config(QWEN2, "config.json")
    known = list(parameters(architecture))
    megatron = [p.megatron for p in known]
    hugging_face = [name for p in known for name in p.hf]
    assert len(set(megatron)) == len(megatron) and len(set(hugging_face)) == len(hugging_face)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"rope_theta": None}, "rope_theta"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"model_type": "llama", "attention_bias": True}, "attention_bias"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
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
    assert Architecture.from_config(config, "config.json").rope.theta == 5e5


def test_missing_and_damaged_checkpoints_are_refused_in_one_sentence(tmp_path):
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

# SPDX-License-Identifier: Apache-2.0
"""Folders as libraries and users leave them: what transformers reads is loaded, ambiguity is refused."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import write_model

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.megatron.weights import convert
from reasongrm_nemo.megatron.weights.hf_folder import INDEX, HFTensors
from reasongrm_nemo.models.architecture import Layout

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def tied(tmp_path):
    return write_model("qwen2_tied", tmp_path / "tied")


def tensors_of(folder):
    return {n: t for file in sorted(folder.glob("*.safetensors")) for n, t in load_file(file).items()}


def save(folder, name, tensors):
    save_file(tensors, folder / name, metadata={"format": "pt"})


def as_one_file(folder):
    """The folder's tensors in one file, without an index."""
    tensors = tensors_of(folder)
    for file in [*folder.glob("*.safetensors"), *folder.glob(INDEX)]:
        file.unlink()
    save(folder, "model.safetensors", tensors)
    return tensors


def test_a_tied_model_that_stores_its_head_too_is_loaded(tied, tmp_path):
    """As Qwen3-1.7B is published."""
    tensors = as_one_file(tied)
    save(tied, "model.safetensors", tensors | {HEAD: tensors[EMBEDDING].clone()})
    done = convert.hf_to_megatron(tied, tmp_path / "m", Layout(2))
    assert done.tensors == len(tensors) == convert.verify(tied, tmp_path / "m")
    convert.megatron_to_hf(tmp_path / "m", tmp_path / "h")
    assert tensors_of(tmp_path / "h").keys() == tensors.keys()


@pytest.mark.parametrize(
    "head",
    [
        lambda embedding: embedding + torch.eye(*embedding.shape) * 1e-6,
        lambda embedding: embedding[:-1].clone(),
    ],
    ids=["one number", "a row less"],
)
def test_a_tied_model_with_another_head_is_refused(head, tied, tmp_path):
    tensors = as_one_file(tied)
    save(tied, "model.safetensors", tensors | {HEAD: head(tensors[EMBEDDING])})
    says = "tie_word_embeddings, yet lm_head.weight is stored and differs from model.embed_tokens.weight"
    with pytest.raises(UserError, match=says):
        convert.hf_to_megatron(tied, tmp_path / "m", Layout())


def beside_the_index(folder, change=lambda tensors: tensors):
    """Add model.safetensors: transformers would read that file, vLLM the shards that the index names."""
    save(folder, "model.safetensors", change(tensors_of(folder)))


def test_an_index_beside_the_same_tensors_in_one_file_is_loaded(tied, tmp_path):
    beside_the_index(tied)
    assert convert.hf_to_megatron(tied, tmp_path / "m", Layout()).parameters > 0


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: {n: t + (n == EMBEDDING) for n, t in tensors.items()},
        lambda tensors: {n: t.half() for n, t in tensors.items()},
        lambda tensors: {n: t for n, t in tensors.items() if n != EMBEDDING},
        lambda tensors: tensors | {"stranger": torch.zeros(1)},
    ],
    ids=["a number", "the dtype", "one less", "one more"],
)
def test_an_index_beside_other_tensors_in_one_file_is_refused(change, tied, tmp_path):
    beside_the_index(tied, change)
    with pytest.raises(
        UserError, match=rf"holds both model.safetensors and {re.escape(INDEX)}, .* differ in \S+"
    ):
        convert.hf_to_megatron(tied, tmp_path / "m", Layout())


def test_only_one_of_several_ranks_compares(tied):
    tensors = as_one_file(tied)
    save(tied, "model.safetensors", tensors | {HEAD: tensors[EMBEDDING] + 1})
    known = [HFTensors(tied, compare=False).infos[name] for name in tensors]
    HFTensors(tied, compare=False).check(known)
    with pytest.raises(UserError, match="differs"):
        HFTensors(tied).check(known)


def test_an_index_of_one_file_is_not_a_second_model(tied):
    tensors = as_one_file(tied)
    (tied / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "model.safetensors")}))
    assert HFTensors(tied).infos.keys() == tensors.keys()


def test_a_tensor_in_two_shards_is_refused(tied):
    first, second = sorted(tied.glob("*.safetensors"))[:2]
    name, tensor = next(iter(load_file(first).items()))
    save(tied, second.name, load_file(second) | {name: tensor})
    with pytest.raises(UserError, match=f"{name} is stored in both {first.name} and {second.name}"):
        HFTensors(tied)


def test_shards_without_an_index_are_refused(tied):
    (tied / INDEX).unlink()
    with pytest.raises(
        UserError, match=rf"holds shards such as model-00001-of-\d+.safetensors, but no {INDEX}"
    ):
        HFTensors(tied)


def test_shards_left_beside_one_file_are_refused(tied):
    """Without an index vLLM loads every file; transformers and we load model.safetensors alone."""
    shard = min(tied.glob("*.safetensors"))
    kept = load_file(shard)
    as_one_file(tied)
    save(tied, shard.name, kept)
    with pytest.raises(UserError, match=f"holds both model.safetensors and {shard.name}"):
        HFTensors(tied)


def test_weights_in_pytorchs_format_are_refused_in_a_sentence(tied):
    as_one_file(tied)
    (tied / "model.safetensors").rename(tied / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin, .* save the weights as safetensors"):
        HFTensors(tied)

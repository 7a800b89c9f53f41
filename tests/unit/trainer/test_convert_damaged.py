# SPDX-License-Identifier: Apache-2.0
"""Conversion of damaged or mismatching input: one sentence, status 2, nothing half-written."""

import os
import shutil

import pytest
import torch
from converted import command, edit_config
from safetensors.torch import load_file, save_file

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.megatron.weights import convert
from reasongrm_nemo.models.architecture import Layout


def a_file(folder):
    return sorted(folder.glob("*.safetensors"))[1]


def lose_a_shard(folder):
    a_file(folder).unlink()


def cut_a_shard_short(folder):
    os.truncate(a_file(folder), a_file(folder).stat().st_size - 100)


def change(folder, edit):
    tensors = load_file(a_file(folder))
    edit(tensors)
    save_file(tensors, a_file(folder), metadata={"format": "pt"})


def reshape(folder):
    def edit(tensors):
        name = next(n for n, t in tensors.items() if t.ndim == 2)
        tensors[name] = torch.zeros(7, 7)

    change(folder, edit)


def add_a_tensor(folder):
    change(folder, lambda tensors: tensors.update(stranger=torch.zeros(1)))


def name_another_architecture(folder):
    edit_config(folder, model_type="gpt2")


def tie(folder):
    edit_config(folder, tie_word_embeddings=True)


def mix_dtypes(folder):
    change(folder, lambda tensors: tensors.update({n: t.half() for n, t in tensors.items()}))


def break_the_index(folder):
    (folder / "model.safetensors.index.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_a_shard, "model-00002-of-.* is missing"),
        (cut_a_shard_short, "damaged: model-00002-of-"),
        (reshape, r"wrong shape: model\.\S+ \[7, 7\] instead of"),
        (add_a_tensor, "unexpected: stranger"),
        (name_another_architecture, "model_type 'gpt2' is not supported"),
        (tie, "tie_word_embeddings, yet lm_head.weight"),
        (mix_dtypes, "stored in float16, float32"),
        (break_the_index, "index.json"),
    ],
)
def test_damaged_hugging_face_folders_are_refused(damage, message, qwen2_untied, tmp_path):
    damage(qwen2_untied)
    with pytest.raises(UserError, match=message):
        convert.hf_to_megatron(qwen2_untied, tmp_path / "m", Layout(2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["qwen2_untied"]


def drop_a_file(weights):
    next(weights.glob("*.distcp")).unlink()


def shorten_a_file(weights):
    file = next(weights.glob("*.distcp"))
    os.truncate(file, file.stat().st_size - 50)


def drop_the_description(weights):
    (weights / ".metadata").unlink()


def overwrite_the_description(weights):
    (weights / ".metadata").write_bytes(b"\x80\x04nonsense")


def smuggle_code(weights):
    (weights / ".metadata").write_bytes(b"cos\nsystem\n(S'echo pwned'\ntR.")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_a_file, r"\.distcp is missing"),
        (shorten_a_file, r"\.distcp has \d+ bytes of \d+"),
        (drop_the_description, r"has no \.metadata"),
        (overwrite_the_description, "damaged or in an unknown format"),
        (smuggle_code, "it refers to .*system"),
    ],
)
def test_damaged_megatron_checkpoints_are_refused(damage, message, qwen2_untied, tmp_path):
    convert.hf_to_megatron(qwen2_untied, tmp_path / "m", Layout(2))
    damage(tmp_path / "m" / "model_weights")
    with pytest.raises(UserError, match=message):
        convert.megatron_to_hf(tmp_path / "m", tmp_path / "h")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "qwen2_untied"]


def test_another_models_checkpoint_is_refused(qwen2_untied, tmp_path):
    convert.hf_to_megatron(qwen2_untied, tmp_path / "m", Layout())
    edit_config(tmp_path / "m", num_hidden_layers=3, tie_word_embeddings=True)
    with pytest.raises(UserError, match=r"unexpected: model\.output_layer\.weight; wrong shape: model\."):
        convert.megatron_to_hf(tmp_path / "m", tmp_path / "h")


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(3), "3 tensor-parallel ranks do not divide num_attention_heads 8"),
        (Layout(8), "8 tensor-parallel ranks do not divide num_key_value_heads 4"),
        (Layout(1, 3), "3 pipeline stages do not divide num_hidden_layers 4"),
        (Layout(1, 2, first=4), "with .4. layers at the ends"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(layout, message, qwen2_untied, tmp_path):
    with pytest.raises(UserError, match=message):
        convert.hf_to_megatron(qwen2_untied, tmp_path / "m", layout)


def test_a_folder_that_exists_is_left_alone(qwen2_untied, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").touch()
    with pytest.raises(UserError, match="already exists"):
        convert.hf_to_megatron(qwen2_untied, tmp_path / "m", Layout())
    assert [p.name for p in (tmp_path / "m").iterdir()] == ["mine"]


@pytest.mark.parametrize("late", [False, True])
def test_no_space_left(late, qwen2_untied, tmp_path, monkeypatch):
    """Foreseen from the free space, and met by a writing thread all the same."""
    if late:
        real = torch.save

        def full(tensor, out):
            if out.tell() > 20000:
                os.write(os.open("/dev/full", os.O_WRONLY), b"x")  # a real ENOSPC from the kernel
            real(tensor, out)

        monkeypatch.setattr(torch, "save", full)
    else:
        usage = shutil._ntuple_diskusage(10**9, 10**9, 4096)
        monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="no space left"):
        convert.hf_to_megatron(qwen2_untied, tmp_path / "m", Layout())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["qwen2_untied"]


def test_commands_end_with_status_2_and_one_sentence(qwen2_untied, tmp_path):
    lose_a_shard(qwen2_untied)
    first = command("hf_to_megatron", qwen2_untied, tmp_path / "m", "-t", 2)
    second = command("megatron_to_hf", tmp_path / "nowhere", tmp_path / "h")
    for process in (first, second):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 2
        assert err.startswith("reasongrm: ") and err.count("\n") == 1

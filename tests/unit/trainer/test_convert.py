# SPDX-License-Identifier: Apache-2.0
"""Conversion: exact in both directions at every parallelism, all or nothing, one sentence for bad input."""

import itertools
import json
import shutil
import signal
import time

import faults
import pytest
import torch
from converted import ROOT, assert_same, command, edit_config, tensors_of
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from small_models import LLAMA_31, write_model

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.megatron.weights import convert, torch_dist
from reasongrm_nemo.megatron.weights.hf_folder import HFTensors, shards, write_safetensors
from reasongrm_nemo.models.architecture import Layout
from reasongrm_nemo.models.tensor_info import TensorInfo

LAYOUTS = [Layout(t, p) for t, p in itertools.product((1, 2, 4), (1, 2, 4))]
LAYOUTS += [Layout(2, 2, first=1), Layout(1, 3, first=1, last=1), Layout(1, 2, last=3)]


def test_round_trip_is_exact_at_every_parallelism(any_model, tmp_path):
    before = tensors_of(any_model)
    for number, layout in enumerate(LAYOUTS):
        megatron, back = tmp_path / f"m{number}", tmp_path / f"h{number}"
        convert.hf_to_megatron(any_model, megatron, layout)
        assert convert.verify(any_model, megatron) == len(before)
        convert.megatron_to_hf(megatron, back)
        assert_same(before, tensors_of(back))
        config = json.loads((back / "config.json").read_text())
        assert config["rope_theta"] == json.loads((any_model / "config.json").read_text())["rope_theta"]


def test_pieces_and_files_may_be_smaller_than_a_parameter(any_model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_dist, "CHUNK_BYTES", 2048)
    monkeypatch.setattr(torch_dist, "FILE_BYTES", 20000)
    convert.hf_to_megatron(any_model, tmp_path / "m", Layout(2, 2), threads=3)
    assert len(list((tmp_path / "m" / "model_weights").glob("*.distcp"))) > 8
    convert.megatron_to_hf(tmp_path / "m", tmp_path / "h", threads=3)
    assert_same(tensors_of(any_model), tensors_of(tmp_path / "h"))


def test_dtypes_are_converted_on_request(qwen2_untied, tmp_path):
    convert.hf_to_megatron(qwen2_untied, tmp_path / "m", Layout(2), torch.bfloat16)
    assert convert.verify(qwen2_untied, tmp_path / "m")
    convert.megatron_to_hf(tmp_path / "m", tmp_path / "h")
    assert_same({n: t.bfloat16() for n, t in tensors_of(qwen2_untied).items()}, tensors_of(tmp_path / "h"))
    assert json.loads((tmp_path / "h" / "config.json").read_text())["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.float32, 32), (torch.bfloat16, "bf16"), (torch.float16, 16)], ids=str
)
def test_nemo_s_config_names_the_precision_of_the_weights(qwen2_untied, tmp_path, dtype, precision):
    for file in qwen2_untied.glob("*.safetensors"):
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    assert convert.hf_to_megatron(qwen2_untied, tmp_path / "m", Layout()).dtype == dtype
    assert OmegaConf.load(tmp_path / "m" / "model_config.yaml").precision == precision


def test_a_recipes_rope_is_in_the_written_config(qwen2_untied, tmp_path):
    rope = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    convert.hf_to_megatron(qwen2_untied, tmp_path / "m", Layout(), rope=rope)
    convert.megatron_to_hf(tmp_path / "m", tmp_path / "h")
    config = json.loads((tmp_path / "h" / "config.json").read_text())
    assert config["rope_scaling"]["rope_type"] == "yarn"
    assert config["max_position_embeddings"] == 1024


def test_verify_finds_a_changed_number(qwen2_untied, tmp_path):
    convert.hf_to_megatron(qwen2_untied, tmp_path / "m", Layout(2, 2))
    file = next(f for f in qwen2_untied.glob("*.safetensors") if "model.norm.weight" in load_file(f))
    tensors = load_file(file)
    tensors["model.norm.weight"][3] += 1e-6
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"differs.* in model\.norm\.weight\."):
        convert.verify(qwen2_untied, tmp_path / "m")


def test_files_are_as_large_as_asked_and_a_large_tensor_stands_alone():
    infos = [TensorInfo(str(i), torch.bfloat16, (n,)) for i, n in enumerate((3, 3, 20, 2, 2))]
    files = shards(infos, limit=12)
    assert [[i.name for i in group] for group in files.values()] == [["0", "1"], ["2"], ["3", "4"]]
    assert next(iter(files)) == "model-00001-of-00003.safetensors"
    assert list(shards(infos, limit=100)) == ["model.safetensors"]


def test_safetensors_are_what_the_library_reads(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(6).to(torch.bfloat16), "c": torch.ones(2, 0)}
    infos = [TensorInfo(n, t.dtype, tuple(t.shape)) for n, t in tensors.items()]
    write_safetensors(tmp_path / "x.safetensors", infos, ([t[:1], t[1:]] for t in tensors.values()))
    assert_same(tensors, load_file(tmp_path / "x.safetensors"))
    with pytest.raises(ValueError, match="expected"):
        write_safetensors(tmp_path / "y.safetensors", infos, ([t.double()] for t in tensors.values()))


def test_a_killed_conversion_leaves_nothing_that_looks_complete_and_can_be_repeated(qwen2_untied, tmp_path):
    target = tmp_path / "m"
    for delay in (0.0, 0.02):
        process = command("hf_to_megatron", qwen2_untied, target)
        while process.poll() is None and not list(tmp_path.glob(".m.partial")):
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if target.exists():  # the conversion finished before the kill
            assert convert.verify(qwen2_untied, target)
            return
    done = command("hf_to_megatron", qwen2_untied, target, "--verify", "--json")
    out, err = done.communicate(timeout=120)
    assert done.returncode == 0, err
    assert json.loads(out)["verified"] == len(HFTensors(qwen2_untied).infos)
    assert not list(tmp_path.glob(".m.partial"))


@pytest.mark.parametrize("saved_by", [4, 5])
def test_llama_31_keeps_its_scaling(saved_by, tmp_path):
    """In every spelling, whichever spelling the checkpoint used."""
    folder = write_model("llama_31", tmp_path / "llama")
    nested = LLAMA_31 | {"rope_theta": 5e5}
    if saved_by == 5:
        edit_config(folder, rope_theta=None, rope_scaling=None, rope_parameters=nested)
    convert.hf_to_megatron(folder, tmp_path / "m", Layout(2))
    convert.megatron_to_hf(tmp_path / "m", tmp_path / "h")
    config = json.loads((tmp_path / "h" / "config.json").read_text())
    assert config["rope_scaling"] == LLAMA_31 | {"type": "llama3"}
    assert config["rope_theta"] == 5e5 and config["rope_parameters"] == nested


def test_a_conversion_is_redone_only_if_the_weights_changed(qwen2_untied, tmp_path):
    """With `--if-changed`, which the cluster's jobs pass whether or not a conversion exists."""
    source, target = tmp_path / "hf", tmp_path / "m"
    shutil.copytree(qwen2_untied, source)

    def convert_it():
        process = command("hf_to_megatron", source, target, "--if-changed")
        out, error = process.communicate()
        return process.returncode, out + error

    assert convert_it()[0] == 0
    made = (target / "model_config.yaml").stat().st_mtime_ns
    status, said = convert_it()
    assert status == 0 and "up to date with its source" in said
    assert (target / "model_config.yaml").stat().st_mtime_ns == made
    faults.flipped_byte_time_kept(target / "model_weights" / "__0_0.distcp")
    assert convert_it()[0] == 0 and convert.verify(source, target), "a damaged one does not stand"
    weights = min(source.glob("*.safetensors"))
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    assert convert_it()[0] == 0
    assert convert.verify(source, target)
    (target / "conversion.json").unlink()
    status, said = convert_it()
    assert status == 2 and "already exists" in said, "what we did not make is not removed"


@pytest.mark.parametrize(("export", "step"), [("last", 20), ("best", 10)])
def test_a_training_stage_is_converted_from_its_exported_checkpoint(export, step, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "conversion"))
    from megatron_to_hf import exported_checkpoint

    for name in ("step_000010", "step_000020"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / "scores.json").write_text('{"step_000010": 0.9, "step_000020": 0.1}')
    recipe = {"stage": "grpo", "grpo": {"validation": {"export": export}}}
    (tmp_path / "manifest.json").write_text(json.dumps({"recipe": recipe}))
    assert exported_checkpoint(tmp_path).name == f"step_{step:06d}"

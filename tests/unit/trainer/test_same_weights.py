# SPDX-License-Identifier: Apache-2.0
"""model.megatron_path holds the weights of model.hf_path, or the stage does not start."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from small_models import write_model

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.megatron.weights import convert
from reasongrm_nemo.models.architecture import Layout
from reasongrm_nemo.run.converted import NOTE, check_same_weights

ROOT = Path(__file__).resolve().parents[3]
SAYS = r"^model.megatron_path: \S+ was not converted from model.hf_path \S+, .*; convert that model"


@pytest.fixture
def trained(qwen2_untied, tmp_path):
    """A model of the same shape with other weights, as if a stage had trained the base."""
    shutil.copytree(qwen2_untied, tmp_path / "trained")
    file = min((tmp_path / "trained").glob("*.safetensors"))
    tensors = {name: tensor + 1e-3 for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return tmp_path / "trained"


@pytest.fixture
def unread(monkeypatch):
    """Makes reading a tensor an error."""

    def refuse(*_):
        raise AssertionError("the note should have told it")

    monkeypatch.setattr(convert, "verify", refuse)


def by_command(source, target, program="hf_to_megatron"):
    words = [sys.executable, str(ROOT / "conversion" / f"{program}.py"), str(source), str(target)]
    subprocess.run(words, check=True, capture_output=True)
    return target


@pytest.mark.runs("conversion/hf_to_megatron.py")
@pytest.mark.runs("conversion/megatron_to_hf.py")
def test_the_commands_convert_in_both_directions(qwen2_untied, tmp_path):
    megatron = by_command(qwen2_untied, tmp_path / "m")
    back = by_command(megatron, tmp_path / "h", "megatron_to_hf")
    assert (back / "config.json").is_file() and list(back.glob("*.safetensors"))


def test_the_note_of_a_conversion_identifies_it_without_reading_tensors(qwen2_untied, tmp_path, unread):
    megatron = by_command(qwen2_untied, tmp_path / "m")
    assert set(json.loads((megatron / NOTE).read_text())) == {"source", "weights", "files"}
    check_same_weights(megatron, qwen2_untied, None)
    (qwen2_untied / "chat_template.jinja").write_text("another template, the same weights")
    check_same_weights(megatron, qwen2_untied, None)


def test_another_models_conversion_is_refused(qwen2_untied, trained, tmp_path):
    """Such as the converted base given to a whole pipeline, where it replaced the model trained by SFT."""
    megatron = by_command(qwen2_untied, tmp_path / "m")
    with pytest.raises(UserError, match=SAYS):
        check_same_weights(megatron, trained, None)


@pytest.mark.parametrize("note", [None, '{"source": "of before"}', "[1]", "{"])
def test_without_a_note_of_these_weights_the_tensors_are_compared(note, qwen2_untied, trained, tmp_path):
    convert.hf_to_megatron(qwen2_untied, tmp_path / "m", Layout(2, 2))
    if note:
        (tmp_path / "m" / NOTE).write_text(note)
    check_same_weights(tmp_path / "m", qwen2_untied, None)
    with pytest.raises(UserError, match=SAYS):
        check_same_weights(tmp_path / "m", trained, None)


def test_another_architectures_checkpoint_is_refused(qwen2_untied, tmp_path):
    other = write_model("llama_untied", tmp_path / "llama")
    convert.hf_to_megatron(other, tmp_path / "m", Layout())
    with pytest.raises(UserError, match=SAYS):
        check_same_weights(tmp_path / "m", qwen2_untied, None)

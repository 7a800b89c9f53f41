# SPDX-License-Identifier: Apache-2.0
"""Converted checkpoints in real Megatron models of several ranks, and back out of their training checkpoints.

Logits against transformers in fp32, 1e-4 absolute (sums of some 100 products in another order; seen: below
2e-5). The texts are from this project's README.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_models import write_model

from reasongrm_nemo.megatron.weights import convert
from reasongrm_nemo.models.architecture import Layout
from reasongrm_nemo.models.tokenization import load_tokenizer
from reasongrm_nemo.recipe.load import resolve_path

HERE = Path(__file__).parent
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LINEAR = YARN | {"type": "linear"}
PLAIN = {"type": None}


def real_text(vocabulary, lengths):
    """The README as token ids, modulo a small vocabulary, in pieces of these lengths."""
    tokenizer = load_tokenizer(resolve_path("asset:tiny_judge", "."))
    ids = [i % vocabulary for i in tokenizer.encode((HERE.parents[1] / "README.md").read_text())]
    return [ids[sum(lengths[:n]) :][:length] for n, length in enumerate(lengths)]


@pytest.mark.parametrize(
    ("name", "how", "tensor", "pipeline", "first", "rope"),
    [
        ("qwen2_untied", "nemo_aligner", 1, 1, None, PLAIN),
        ("qwen2_tied", "nemo_aligner", 2, 2, None, PLAIN),
        ("qwen3", "session", 2, 1, None, PLAIN),
        ("llama_31", "session", 1, 2, 1, PLAIN),
        ("mistral", "session", 1, 1, None, PLAIN),
        ("mistral", "session", 2, 1, None, PLAIN),
        ("mistral", "session", 1, 2, 1, PLAIN),
        ("phi3", "session", 1, 1, None, PLAIN),
        ("phi3", "session", 2, 1, None, PLAIN),
        ("phi3", "session", 1, 2, 1, PLAIN),
        ("qwen2_tied", "session", 2, 2, None, YARN),
        ("llama_untied", "hf", 1, 1, None, YARN),
        ("llama_untied", "hf", 1, 1, None, LINEAR),
    ],
    ids=[
        "nemo-aligner",
        "nemo-aligner-tp2-pp2-tied",
        "qwen3-tp2",
        "llama31-pp2-uneven",
        "mistral",
        "mistral-tp2",
        "mistral-pp2-uneven",
        "phi3",
        "phi3-tp2",
        "phi3-pp2-uneven",
        "yarn-tp2-pp2",
        "yarn",
        "linear",
    ],
)
def test_a_converted_checkpoint_is_the_model(name, how, tensor, pipeline, first, rope, launch, tmp_path):
    folder = write_model(name, tmp_path / "hf", max_position_embeddings=256 if rope is PLAIN else 64)
    # written for another parallelism than the one that reads it
    convert.hf_to_megatron(folder, tmp_path / "m", Layout(4, 2), rope=rope)
    # transformers reads the recipe's rope from config.json
    convert.megatron_to_hf(tmp_path / "m", tmp_path / "reference")
    spec = {"hf": str(folder), "megatron": str(tmp_path / "m"), "reference": str(tmp_path / "reference")}
    spec |= {"how": how, "tensor": tensor, "pipeline": pipeline, "first": first, "rope": rope}
    # with the recipe's rope, up to four times the original length
    spec |= {"length": 256, "texts": real_text(99, [40, 257, 7, 200]), "out": str(tmp_path)}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    launch(str(HERE / "convert_worker.py"), tensor * pipeline, tmp_path / "spec.json")
    assert json.loads((tmp_path / "figures.json").read_text())["logits"] <= 1e-4
    if how == "session":
        came_back(tmp_path, folder, rope)


def came_back(tmp_path, folder, rope):
    """A training checkpoint written by all ranks converts back to the original Hugging Face tensors."""
    (step,) = (tmp_path / "checkpoints").glob("step_*")
    convert.megatron_to_hf(step, tmp_path / "back", companions=folder, rope=rope)
    before = {n: t for file in folder.glob("*.safetensors") for n, t in load_file(file).items()}
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)

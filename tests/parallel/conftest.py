# SPDX-License-Identifier: Apache-2.0
"""Random small models and a launcher of gloo ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

SHAPE = {
    "vocab_size": 99,  # odd, so that tensor parallelism pads it
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}


def _with_spread_vectors(model):
    """Norms of one and biases of zero would hide a wrong mapping."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.float()


@pytest.fixture(scope="session")
def qwen2_tied(tmp_path_factory):
    """A tied Qwen2 with biases."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("qwen2")
    config = Qwen2Config(**SHAPE, tie_word_embeddings=True, rope_theta=1e4)
    _with_spread_vectors(Qwen2ForCausalLM(config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama_untied(tmp_path_factory):
    """An untied Llama without biases."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(**SHAPE, tie_word_embeddings=False, rope_theta=1e5)
    _with_spread_vectors(LlamaForCausalLM(config)).save_pretrained(folder)
    return folder


@pytest.fixture
def launch(tmp_path):
    """``launch(script_or_module, world_size, *arguments)``: gloo ranks; fails with their output."""

    def run(script, world_size, *arguments):
        root = Path(__file__).resolve().parents[2]
        command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={world_size}"]
        command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", *script, *map(str, arguments)]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]

    return run

# SPDX-License-Identifier: Apache-2.0
"""Small random models and a real vLLM server for them."""

import os
from pathlib import Path

import pytest

VOCAB = 96
END = 2


@pytest.fixture(scope="session")
def rollout_python():
    python = os.environ.get("REASONGRM_ROLLOUT_PYTHON")
    assert python and Path(python).is_file(), (
        "set REASONGRM_ROLLOUT_PYTHON to the rollout environment's python"
    )
    return python


def make_model(folder, seed, family="Qwen2", **changes):
    """Make a model of two layers with distributions neither flat nor peaked; returns transformers' model."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    torch.manual_seed(seed)
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "initializer_range": 0.12,
        "bos_token_id": None,
        "eos_token_id": END,
    }
    config = getattr(transformers, f"{family}Config")(**(sizes | changes))
    model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token=f"w{END}").save_pretrained(folder)
    return model


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Name -> (folder, transformers' model): a and b differ in weights, wide in its sizes.

    Two more of every further family differ in weights.
    """
    root = tmp_path_factory.mktemp("models")
    out = {}
    mistral = {"family": "Mistral", "head_dim": 64, "sliding_window": None}
    phi3 = {"family": "Phi3", "pad_token_id": 0}
    for name, seed, changes in (
        ("a", 0, {}),
        ("b", 1, {}),
        ("wide", 2, {"intermediate_size": 128}),
        ("mistral a", 3, mistral),
        ("mistral b", 4, mistral),
        ("phi3 a", 3, phi3),
        ("phi3 b", 4, phi3),
    ):
        out[name] = (root / name, make_model(root / name, seed, **changes))
    return out


@pytest.fixture(scope="session")
def make_settings(rollout_python):
    """A function that makes settings for the small models."""
    from reasongrm_nemo.rollout import RolloutSettings

    def build(**changes):
        values = {
            "python": rollout_python,
            "platform": "cpu",
            "weight_transfer": "gloo",
            "dtype": "fp32",
            "max_model_len": 256,
            "trust_remote_code": False,
            "max_num_seqs": 64,
            "kv_cache_gib": 0.1,
            "enforce_eager": True,
            "tensor_parallel": 1,
            "threads": 1,
            "port": None,
            "concurrency": 64,
            "stall_timeout_s": 25.0,
            "start_timeout_s": 400.0,
            "extra_env": {},
        }
        return RolloutSettings(**(values | changes))

    return build


@pytest.fixture(scope="session")
def shared(models, make_settings, tmp_path_factory):
    """One running server for tests that do not stop it."""
    from reasongrm_nemo.rollout import Rollouts, RolloutServer

    server = RolloutServer(make_settings(), models["a"][0], tmp_path_factory.mktemp("log") / "server.log")
    with Rollouts([server]) as rollouts:
        yield rollouts


@pytest.fixture
def rollouts(shared, models):
    """The shared server, serving model a."""
    shared.resync = None
    shared.losses.clear()
    shared.use(models["a"][0])
    return shared

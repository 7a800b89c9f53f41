# SPDX-License-Identifier: Apache-2.0
"""Log-probs, loss and gradients equal transformers' on one process, however the model and batch are cut.

fp32. Tolerances: log-probs 1e-4 absolute (sums of some 100 products, seen 1e-6 to 1e-5); loss and each
parameter's gradient 1e-5 and 1e-4 relative in norm (other orders of summation, seen below 1e-5).
"""

import json
from pathlib import Path

import pytest
from small_models import write_model

WORKER = str(Path(__file__).parent / "worker.py")


@pytest.mark.parametrize(
    ("model", "world", "tensor", "pipeline", "sequence"),
    [
        ("qwen2_tied", 1, 1, 1, False),
        ("llama_untied", 1, 1, 1, False),
        ("qwen2_tied", 2, 2, 1, True),
        ("llama_untied", 2, 2, 1, False),
        ("qwen2_tied", 2, 1, 2, False),
        ("llama_untied", 2, 1, 1, False),
        ("qwen3", 2, 2, 1, False),
        ("qwen3", 2, 2, 1, True),
    ],
    ids=[
        "qwen2",
        "llama",
        "qwen2-tp2-sp",
        "llama-tp2",
        "qwen2-pp2",
        "llama-dp2",
        "qwen3-tp2",
        "qwen3-tp2-sp",
    ],
)
def test_equals_transformers(model, world, tensor, pipeline, sequence, launch, tmp_path):
    out = tmp_path / "figures.json"
    launch([WORKER], world, write_model(model, tmp_path / "hf"), tensor, pipeline, sequence, out)
    figures = json.loads(out.read_text())
    assert figures["names"]
    assert figures["log_probs"] <= 1e-4
    assert figures["loss"] <= 1e-5
    assert figures["gradient"] <= 1e-4
    assert figures["error_metric"] <= 1e-5

# SPDX-License-Identifier: Apache-2.0
"""SFT's loss and gradients equal transformers', however model and batch are cut.

Tolerances: as in test_parity.py.
"""

import json
from pathlib import Path

import pytest
from small_models import write_model

WORKER = str(Path(__file__).parent / "sft_worker.py")


@pytest.mark.parametrize(
    ("world", "tensor", "pipeline", "sequence"),
    [(4, 2, 1, True), (4, 2, 2, False)],
    ids=["tp2-dp2-sp", "tp2-pp2"],
)
def test_equals_transformers(world, tensor, pipeline, sequence, launch, tmp_path):
    out = tmp_path / "figures.json"
    folder = write_model("qwen2_tied", tmp_path / "hf", max_position_embeddings=512)
    launch(WORKER, world, folder, tensor, pipeline, sequence, out)
    figures = json.loads(out.read_text())
    assert figures["loss"] <= 1e-5
    assert figures["single"] <= 1e-5
    assert figures["validation"] <= 1e-5
    assert figures["gradient"] <= 1e-4
    assert figures["cuts"] <= 1e-5

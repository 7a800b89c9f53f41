# SPDX-License-Identifier: Apache-2.0
"""Every rank exports the full weights bitwise for the vLLM worker on its GPU."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_models import write_model

WORKER = str(Path(__file__).parent / "export_worker.py")


@pytest.mark.parametrize(
    ("model", "world", "tensor", "pipeline"), [("qwen2_tied", 4, 2, 2), ("llama_untied", 2, 1, 1)]
)
def test_each_rank_holds_the_folders_tensors(launch, tmp_path, model, world, tensor, pipeline):
    """TP2 x PP2, where tensors are gathered and passed on; DP2, where each replica exports independently."""
    folder = write_model(model, tmp_path / "hf")
    launch(WORKER, world, folder, tensor, pipeline, tmp_path)
    shards = [load_file(shard) for shard in folder.glob("*.safetensors")]
    expected = {name: value for shard in shards for name, value in shard.items()}
    for rank in range(world):
        got = load_file(tmp_path / f"rank_{rank}.safetensors")
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(got[name], value), (rank, name)
        figures = json.loads((tmp_path / f"rank_{rank}.json").read_text())
        assert figures["buckets"] > 2 and figures["exports"] == 1

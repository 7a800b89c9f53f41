# SPDX-License-Identifier: Apache-2.0
"""A push's planned memory, compared with the real export and buckets over tensors without data.

Seen at QwQ's size, TP8 x PP4: 1.96 GiB of whole parameters and buffer, as planned; 3.15 GiB before shards
were gathered into one piece of memory.
"""

from pathlib import Path

import pytest

from reasongrm_nemo.models.architecture import Architecture, Layout
from reasongrm_nemo.models.push_memory import joined, of_push
from reasongrm_nemo.recipe.load import load_recipe, recipes_root

CONFIGS = Path(__file__).parents[2] / "reasongrm_nemo" / "assets" / "configs"
QWQ = recipes_root() / "qwq_32b" / "1_grpo_zero.yaml"
WORKER = str(Path(__file__).parent / "push_worker.py")


@pytest.mark.parametrize(
    ("name", "tensor", "pipeline", "rank"),
    [
        ("qwq_32b", 8, 4, 0),
        ("qwq_32b", 8, 4, 31),
        ("qwen2_5_7b", 2, 1, 0),
        ("llama3_1_8b", 1, 4, 1),
        ("phi_4", 2, 2, 0),
        ("phi_4", 1, 1, 0),
    ],
)
def test_a_push_takes_what_is_planned(launch, tmp_path, name, tensor, pipeline, rank):
    nodes, devices = max(1, tensor * pipeline // 8), min(8, tensor * pipeline)
    words = [f"cluster.tensor_parallel={tensor}", f"cluster.pipeline_parallel={pipeline}"]
    words += [f"cluster.nodes={nodes}", f"cluster.devices_per_node={devices}", "rollout.tensor_parallel=1"]
    words += ["rollout.servers=1", "cluster.sequence_parallel=false"]
    out = tmp_path / "peak"
    launch(WORKER, 1, out, QWQ, CONFIGS / name, rank, *words)
    recipe = load_recipe(QWQ, words)
    architecture, layout = Architecture.from_folder(CONFIGS / name), Layout.of_cluster(recipe.cluster)
    planned = joined(architecture, layout, 2) + of_push(architecture, layout, 2).buffer
    # the arithmetic leaves out norms and a byte of the buffer
    assert int(out.read_text()) == pytest.approx(planned, rel=1e-3)

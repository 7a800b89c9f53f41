# SPDX-License-Identifier: Apache-2.0
"""The weight-transfer engines as vLLM finds and constructs them, short of using a GPU."""

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.stages

ROOT = Path(__file__).parents[3]
PROGRAM = """
import os
import torch
from types import SimpleNamespace
from reasongrm_nemo.rollout.server import vllm_plugin
from reasongrm_nemo.rollout.weights import ipc
from reasongrm_nemo.rollout.server.settings import ENGINES
from reasongrm_nemo.models.tensor_info import TensorInfo

from vllm.v1.engine import utils

os.environ |= {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", "OMP_NUM_THREADS": "2"}
vllm_plugin.register()
assert utils.get_mp_context().get_start_method() == "spawn", "threads do not survive a fork"
os.environ["OMP_NUM_THREADS"] = "1"
vllm_plugin.register()  # vLLM calls it in each process, and may do so again
assert utils.get_mp_context().get_start_method() == "fork"
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory as factory

loaded = {}
model = SimpleNamespace(load_weights=lambda weights: loaded.update(weights))
vllm_config = SimpleNamespace(parallel_config=SimpleNamespace(), model_config=None)
made = {
    how: factory.create_engine(WeightTransferConfig(backend=name), vllm_config, torch.device("cpu"), model)
    for how, name in ENGINES.items()
}
assert [type(engine).__name__ for engine in made.values()] == ["GlooEngine", "NcclEngine", "IpcEngine"]

info = {"names": ["a"], "dtype_names": ["float32"], "shapes": [[2]]}
assert made["nccl"].parse_update_info(info).names == ["a"]
meet = {"file": None, "master_host": "h", "master_port": 1, "world_size": 2, "timeout_s": 3.0, "nccl": []}
assert made["nccl"].parse_init_info(meet).master_host == "h"

# ipc: what the trainer's side fills is what the model is given; the buffer is imported once an update
engine = made["ipc"]
engine.init_transfer_engine(engine.parse_init_info({}))
tensors = {"a": torch.randn(30), "b": torch.ones(7, dtype=torch.bfloat16), "c": torch.randn(50)}
infos = [TensorInfo.of(name, tensor) for name, tensor in tensors.items()]
shared, imports = [], []

def reduce(buffer):
    shared.append(buffer)
    return None, (None,) * 7 + (b"h", buffer.numel(), 0, False, b"r", 0, b"e", True)

engine._import = lambda handles: imports.append(handles) or shared[0]
for bucket in ipc.buckets(infos, iter(tensors.items()), torch.device("cpu"), "GPU-0", reduce, limit=100):
    engine.receive_weights(engine.parse_update_info(bucket.update_info()))
assert shared[0][-1] == 0
engine.shutdown()
assert shared[0][-1] == 1 and engine.buffer is None, "the trainer can see that it was let go of"
shared[0].zero_()
assert list(loaded) == list(tensors) and all(torch.equal(loaded[n], t) for n, t in tensors.items())
assert len(imports) == 1
print("engines agree")
"""


def test_vllm_constructs_every_engine(rollout_python):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [rollout_python, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and done.stdout.endswith("engines agree\n"), done.stdout + done.stderr[-4000:]

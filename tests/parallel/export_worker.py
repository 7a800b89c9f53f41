# SPDX-License-Identifier: Apache-2.0
"""One rank that exports its model's weights: ``export_worker.py HF_FOLDER TP PP OUT_FOLDER``.

Every rank takes the full tensors out of the buckets that it would share with the vLLM worker on its GPU,
and writes them to OUT_FOLDER.
"""

import json
import os
import sys
from pathlib import Path


def main(hf_path, tensor_parallel, pipeline_parallel, out):
    from reasongrm_nemo.megatron.platform import load_platform

    platform = load_platform("cpu")
    import torch
    import torch.distributed as dist
    from safetensors.torch import save_file

    from reasongrm_nemo.grpo.actor import GRPOActor
    from reasongrm_nemo.megatron import session as sessions
    from reasongrm_nemo.recipe.load import load_recipe, recipes_root
    from reasongrm_nemo.rollout.weights import ipc

    sessions.quiet_libraries()
    overrides = [
        f"cluster.devices_per_node={os.environ['WORLD_SIZE']}",
        f"cluster.tensor_parallel={tensor_parallel}",
        f"cluster.pipeline_parallel={pipeline_parallel}",
        "cluster.threads_per_rank=1",
    ]
    recipe = load_recipe(recipes_root() / "tiny" / "1_grpo_zero.yaml", overrides)
    session = sessions.start(platform, GRPOActor, recipe, recipe.grpo.optim, 10, Path(hf_path))
    rank = dist.get_rank()
    shared = []

    def reduce(buffer):
        shared.append(buffer)
        rest = (torch.UntypedStorage, torch.uint8, 0, bytes([rank]), buffer.numel(), 0, False, b"", 0, b"", 1)
        return None, (torch.Tensor, buffer.size(), buffer.stride(), 0, *rest)

    infos = session.transfer.infos()
    exported = session.transfer.export(everywhere=True)
    got, count, unpacking = {}, 0, ipc.Unpacking()
    for bucket in ipc.buckets(infos, exported, torch.device("cpu"), f"GPU-{rank}", reduce, limit=20_000):
        info = bucket.update_info()
        assert sorted(info["handles"]) == [f"GPU-{other}" for other in range(dist.get_world_size())]
        got |= dict(unpacking.tensors(shared[0], info))
        count += 1
    assert list(got) == [info.name for info in infos]
    save_file(got, Path(out) / f"rank_{rank}.safetensors")
    (Path(out) / f"rank_{rank}.json").write_text(json.dumps({"buckets": count, "exports": len(shared)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])

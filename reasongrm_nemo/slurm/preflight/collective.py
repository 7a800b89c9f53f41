# SPDX-License-Identifier: Apache-2.0
"""Tests that all ranks of a job reach each other by one collective; run by `processes.srun_rank`."""

from __future__ import annotations

import os
import sys

RESULT = "collective over"


def main(backend: str, timeout_s: float) -> None:
    """Sum ones over all ranks; rank 0 prints the number of ranks.

    Raises:
        RuntimeError: a rank did not join, or the sum is wrong.
    """
    import torch
    import torch.distributed as dist

    from reasongrm_nemo.processes.meeting import init_ranks

    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    init_ranks(backend, timeout_s)
    one = torch.ones(1 << 10, device="cuda" if backend == "nccl" else "cpu")
    dist.all_reduce(one)
    if int(one[0].item()) != dist.get_world_size():
        raise RuntimeError(f"a sum of ones over {dist.get_world_size()} ranks is {one[0].item()}")
    if dist.get_rank() == 0:
        print(f"{RESULT} {dist.get_world_size()} ranks by {backend}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))

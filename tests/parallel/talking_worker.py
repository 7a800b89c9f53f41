# SPDX-License-Identifier: Apache-2.0
"""A rank that forms groups and exchanges objects for some seconds, run by test_strangers.py."""

import sys
import time
from pathlib import Path


def main(seconds, ready):
    import torch.distributed as dist

    from reasongrm_nemo.processes.meeting import init_ranks

    init_ranks("gloo", 60.0)
    end = time.monotonic() + float(seconds)
    going = [True]
    dist.new_group()
    while going[0]:
        said = [None] * dist.get_world_size()
        dist.all_gather_object(said, {"rank": dist.get_rank()})
        assert said == [{"rank": rank} for rank in range(dist.get_world_size())]
        Path(ready).touch()
        time.sleep(0.1)
        going = [time.monotonic() < end]
        dist.broadcast_object_list(going, 0)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

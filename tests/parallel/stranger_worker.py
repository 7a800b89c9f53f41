# SPDX-License-Identifier: Apache-2.0
"""Rank 0 of a run across nodes, whose other rank is a stranger; run by test_strangers.py."""

import os
import sys
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def main(marker):
    import torch.distributed as dist
    from stranger import Payload, as_nobody

    from reasongrm_nemo.processes.meeting import init_ranks

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    os.environ["WORLD_SIZE"] = "2"

    def join():
        store = dist.TCPStore(address, port, 2, is_master=False, timeout=timedelta(seconds=30))
        dist.init_process_group("gloo", store=store, rank=1, world_size=2)
        dist.all_gather_object([None, None], Payload(marker))

    stranger, said = as_nobody(join)
    init_ranks("gloo", 30.0)
    try:
        dist.all_gather_object([None, None], "ours")
        raise AssertionError("a stranger's object was read")
    except RuntimeError as error:
        assert "lacks the run's signature" in str(error), error
    os.waitpid(stranger, 0)
    print(f"the stranger: {said.read()}", flush=True)
    assert not Path(marker).exists(), "a stranger's object ran code"


if __name__ == "__main__":
    main(*sys.argv[1:])

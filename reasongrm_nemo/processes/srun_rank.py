# SPDX-License-Identifier: Apache-2.0
"""One trainer rank as a task of srun: `python -m reasongrm_nemo.processes.srun_rank MODULE WORK_ORDER.json`.

Sets the variables that torchrun would set for torch and Lightning, then runs the module. The stage sets
MASTER_ADDR, MASTER_PORT, WORLD_SIZE and LOCAL_WORLD_SIZE (`placement.Placement.rank_environment`).
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Mapping

from reasongrm_nemo.processes import placement
from reasongrm_nemo.processes.node_scratch import own_scratch


def environment(slurm: Mapping[str, str], interface: str | None) -> dict[str, str]:
    """The environment of the rank that runs as task `slurm`.

    Leaves out Slurm's variables, on which Lightning would activate its own launcher and requeueing.

    Args:
        slurm: the task's environment.
        interface: the network interface towards the first rank, for gloo.
    """
    kept = {name: value for name, value in slurm.items() if not name.startswith(("SLURM_", "PMI"))}
    kept |= {
        "RANK": slurm["SLURM_PROCID"],
        "LOCAL_RANK": slurm["SLURM_LOCALID"],
        "GROUP_RANK": slurm["SLURM_NODEID"],
        "TORCHELASTIC_RUN_ID": slurm["SLURM_JOB_ID"],
    }
    if interface is not None:
        kept.setdefault(placement.INTERFACE, interface)
    return kept


def main() -> None:
    """Run the rank's module in this process."""
    towards = placement.address_towards(os.environ["MASTER_ADDR"])
    env = environment(os.environ, placement.interface_of(towards))
    os.environ.clear()
    os.environ.update(env)
    own_scratch()
    # on preemption, Slurm sends it to every process; only the run's main process reacts, and requests a save
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

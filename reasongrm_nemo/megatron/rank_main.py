# SPDX-License-Identifier: Apache-2.0
"""What the processes of trainer ranks have in common from their command line to their own training."""

from __future__ import annotations

import sys
from collections.abc import Callable

from reasongrm_nemo.megatron.platform import Platform, load_platform
from reasongrm_nemo.processes.work_order import WorkOrder, rank_of_the_run


def rank_main(train: Callable[[WorkOrder, Platform], None]) -> None:
    """Train as the work order says whose file the command line names (see ``work_order``).

    Args:
        train: the stage's training; imports NeMo itself, after its platform is loaded.
    """
    order = WorkOrder.read(sys.argv[1])
    with rank_of_the_run(order):
        platform = load_platform(order.recipe.cluster.platform)
        from reasongrm_nemo.megatron import session

        session.quiet_libraries()
        train(order, platform)

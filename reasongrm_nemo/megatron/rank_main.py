# SPDX-License-Identifier: Apache-2.0
"""The common entry point of trainer rank processes."""

from __future__ import annotations

import sys
from collections.abc import Callable

from reasongrm_nemo.megatron.platform import Platform, load_platform
from reasongrm_nemo.processes.work_order import WorkOrder, rank_of_the_run


def rank_main(train: Callable[[WorkOrder, Platform], None]) -> None:
    """Run the training described by the work order file named on the command line (see ``work_order``).

    Args:
        train: the stage's training function; must import NeMo inside, after the platform is loaded.
    """
    order = WorkOrder.read(sys.argv[1])
    with rank_of_the_run(order):
        platform = load_platform(order.recipe.cluster.platform)
        from reasongrm_nemo.megatron import session

        session.quiet_libraries()
        train(order, platform)

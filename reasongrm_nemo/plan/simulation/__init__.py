# SPDX-License-Identifier: Apache-2.0
"""What a rank of a recipe's cluster would hold in memory, found out on any machine without weights.

The real actor of the recipe is built and takes a real step, over tensors that have a shape and no data.
"""

from reasongrm_nemo.plan.simulation.simulate import RankReport, Request, rank_of_stage, simulate

__all__ = ["RankReport", "Request", "rank_of_stage", "simulate"]

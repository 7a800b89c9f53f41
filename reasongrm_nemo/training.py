# SPDX-License-Identifier: Apache-2.0
"""What the two trainers have in common around their loops: where they log and save, and how a run ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from reasongrm_nemo import limits
from reasongrm_nemo.megatron import session as sessions
from reasongrm_nemo.megatron.checkpoints import Checkpoints
from reasongrm_nemo.megatron.metrics import MetricsLog
from reasongrm_nemo.megatron.trackers import make_trackers
from reasongrm_nemo.work_order import WorkOrder, first_rank


class Run:
    """A training stage's run on this rank.

    Args:
        order: the stage's work order.
        cfg: the stage's block of the recipe.
    """

    def __init__(self, order: WorkOrder, cfg: DictConfig) -> None:
        self.order, self.cfg, own = order, cfg, order.recipe.checkpoints
        self.checkpoints = Checkpoints(
            order.work / "checkpoints", cfg.keep_checkpoints, own.keep_best, own.asynchronous
        )
        writes = first_rank()
        self.metrics = MetricsLog(
            order.work if writes else None, make_trackers(order.recipe, order.work) if writes else ()
        )
        self.limits = limits.Limits(
            order.runs_dir or order.work, own.checkpoint_must_save_by, name=order.recipe.name
        )

    def go(self, session: Any, fit: Callable[[], str | None]) -> None:
        """Train, and export the weights; or leave the marker where ``fit`` was asked to end.

        Args:
            session: the trained model's.
            fit: the loop; returns why it ended early, or None.
        """
        try:
            reason = fit()
            if reason is None:
                if self.cfg.validation.export == "best":
                    self.checkpoints.load_best_weights(session.model)
                sessions.export_hf(session, self.order.work / "hf", self.order.recipe.model.dtype)
            elif first_rank():
                limits.mark(self.order.work, reason)
        except BaseException:
            self.metrics.close(good=False)
            raise
        self.metrics.close()

# SPDX-License-Identifier: Apache-2.0
"""Logging, checkpoints and the end of a run, shared by the two trainers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from reasongrm_nemo.megatron import session as sessions
from reasongrm_nemo.megatron.checkpoints import Checkpoints, agreed
from reasongrm_nemo.megatron.metrics import MetricsLog
from reasongrm_nemo.megatron.trackers import make_trackers
from reasongrm_nemo.processes import stop_requests
from reasongrm_nemo.processes.work_order import WorkOrder, first_rank


class TrainingRun:
    """A training stage's run on this rank.

    Args:
        order: the stage's work order.
        cfg: the stage's block of the recipe.
    """

    def __init__(self, order: WorkOrder, cfg: DictConfig) -> None:
        self.order, self.cfg, options = order, cfg, order.recipe.checkpoints
        self.checkpoints = Checkpoints(
            order.work / "checkpoints", cfg.keep_checkpoints, options.keep_best, options.asynchronous
        )
        writes = first_rank()
        self.metrics = MetricsLog(
            order.work if writes else None, make_trackers(order.recipe, order.work) if writes else ()
        )
        self._limits = stop_requests.Limits(
            order.runs_dir or order.work, options.checkpoint_must_save_by, name=order.recipe.name
        )
        self._longest_step_s = 0.0

    def reason_to_stop(self, step_s: float) -> str | None:
        """Return why to save and stop after this step, or None; the first rank decides for all.

        Args:
            step_s: seconds the step took; the next one is assumed to take as long as the longest so far.
        """
        self._longest_step_s = max(self._longest_step_s, step_s)
        return agreed(self._limits.reached(self._longest_step_s + self.checkpoints.longest_save_s))

    def go(self, session: Any, fit: Callable[[], str | None]) -> None:
        """Train and export the weights, or write the stop marker if ``fit`` stopped early.

        Args:
            session: the session of the model to train.
            fit: the training loop; returns why it stopped early, or None.
        """
        try:
            reason = fit()
            if reason is None:
                if self.cfg.validation.export == "best":
                    self.checkpoints.load_best_weights(session.model)
                sessions.export_hf(session, self.order.work / "hf", self.order.recipe.model.dtype)
            elif first_rank():
                stop_requests.mark(self.order.work, reason)
        except BaseException:
            self.metrics.close(good=False)
            raise
        self.metrics.close()

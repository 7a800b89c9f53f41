# SPDX-License-Identifier: Apache-2.0
"""One rollout server for all the stages of a run: started when first needed, ended with the run."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

from omegaconf import DictConfig

from reasongrm_nemo.report.console import Console, duration
from reasongrm_nemo.rollout import Rollouts, RolloutServer, RolloutSettings


class RolloutPool:
    """A context manager; leaving it ends the server.

    Args:
        log_dir: the server's output goes to rollout-server.log there.
        console: is told about starts.
    """

    def __init__(self, log_dir: Path, console: Console) -> None:
        self.log_dir, self.console = log_dir, console
        self._rollouts: Rollouts | None = None
        self._settings: RolloutSettings | None = None

    def __enter__(self) -> RolloutPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get(self, cfg: DictConfig, model_dir: Path) -> Rollouts:
        """A running server with the recipe's settings that serves `model_dir`.

        A server with the same settings is handed on, its weights replaced; another is ended first.
        """
        settings = RolloutSettings.from_config(cfg)
        if self._rollouts is not None and settings != self._settings:
            self.close()
        if self._rollouts is None:
            self.log_dir.mkdir(parents=True, exist_ok=True)
            log = self.log_dir / "rollout-server.log"
            self.console.line(f"  starting the rollout server (its log: {log})")
            begin = time.monotonic()
            server = RolloutServer(settings, model_dir, log)
            server.stop()  # what a run that was killed may have left behind
            server.use(model_dir)
            self._rollouts = Rollouts(server, on_loss=self._lost)
            self._settings = settings
            self.console.line(f"  rollout server ready ({duration(time.monotonic() - begin)})")
        else:
            self._rollouts.use(model_dir)
        return self._rollouts

    def _lost(self, cause: str) -> None:
        self.console.warn(f"the rollout server was lost and is started again: {cause}")

    def close(self) -> None:
        """End the server, if there is one."""
        rollouts, self._rollouts = self._rollouts, None
        if rollouts is not None:
            rollouts.stop()

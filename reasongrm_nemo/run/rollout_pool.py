# SPDX-License-Identifier: Apache-2.0
"""The rollout servers shared by the stages of a run: started on first use, stopped with the run."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

from omegaconf import DictConfig

from reasongrm_nemo.processes import placement
from reasongrm_nemo.rollout import Rollouts, RolloutServer, RolloutSettings
from reasongrm_nemo.rollout.server.hosts import AgentStep, Host
from reasongrm_nemo.run.console import Console, duration


class RolloutPool:
    """A context manager that stops the servers on exit.

    Args:
        log_dir: folder of the servers' logs, rollout-server.log, rollout-server-2.log and so on.
        console: prints server starts.

    Attributes:
        on_loss: called with the cause of each server loss; stages replace it.
    """

    def __init__(self, log_dir: Path, console: Console) -> None:
        self.log_dir, self.console = log_dir, console
        self.on_loss = self._lost
        self._rollouts: Rollouts | None = None
        self._settings: list[tuple[placement.Spot, RolloutSettings]] = []
        self._agents: list[AgentStep] = []

    def __enter__(self) -> RolloutPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get(self, cfg: DictConfig, model_dir: Path) -> Rollouts:
        """Servers with the recipe's settings that serve `model_dir`.

        Running servers with the same settings are reused with new weights; others are stopped first.
        """
        place = placement.find(cfg)
        settings = [
            (spot, RolloutSettings.from_config(cfg, index, spot)) for index, spot in enumerate(place.spots)
        ]
        if self._rollouts is not None and settings != self._settings:
            self.close()
        if self._rollouts is not None:
            self._rollouts.use(model_dir)
            return self._rollouts
        count, begin = len(settings), time.monotonic()
        self.log_dir.mkdir(parents=True, exist_ok=True)
        logs = [self.log_dir / f"rollout-server{f'-{i + 1}' if i else ''}.log" for i in range(count)]
        what = "the rollout server (its log" if count == 1 else f"{count} rollout servers (the first's log"
        where = (
            f" on {', '.join(dict.fromkeys(spot.node or '' for spot, _ in settings))}" if place.slurm else ""
        )
        self.console.line(f"  starting {what}: {logs[0]}){where}")
        servers = []
        for (spot, server_settings), log in zip(settings, logs, strict=True):
            host = self._host(place, spot, server_settings, log)
            servers.append(RolloutServer(server_settings, model_dir, log, host=host))
        self._rollouts, self._settings = Rollouts(servers, on_loss=self._tell), settings
        self._rollouts.use(model_dir)
        ready = "rollout server" if count == 1 else "rollout servers"
        self.console.line(f"  {ready} ready ({duration(time.monotonic() - begin)})")
        return self._rollouts

    def _host(
        self, place: placement.Placement, spot: placement.Spot, settings: RolloutSettings, log: Path
    ) -> Host | None:
        if spot.node is None:
            return None
        command = place.server_command(spot, settings.python, ["-m", "reasongrm_nemo.rollout.server.agent"])
        agent = AgentStep(command, settings, spot.node, log.resolve(), settings.start_timeout_s)
        self._agents.append(agent)
        return agent.host

    def _tell(self, cause: str) -> None:
        self.on_loss(cause)  # looked up now: each stage sets its own

    def _lost(self, cause: str) -> None:
        self.console.warn(f"a rollout server was lost and is being restarted: {cause}")

    def close(self) -> None:
        """Stop the servers, if any are running."""
        rollouts, self._rollouts = self._rollouts, None
        if rollouts is not None:
            rollouts.stop()
        agents, self._agents = self._agents, []
        for agent in agents:
            agent.close()

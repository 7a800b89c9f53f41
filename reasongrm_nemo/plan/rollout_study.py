# SPDX-License-Identifier: Apache-2.0
"""Simulated GRPO steps, and how much time a lag or a straggler budget would save."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models.architecture import Architecture
from reasongrm_nemo.plan import memory, times
from reasongrm_nemo.plan.rollouts.lengths import Lengths
from reasongrm_nemo.plan.rollouts.timeline import Servers, Timeline, steps_in_time
from reasongrm_nemo.plan.serving import server
from reasongrm_nemo.stage_kinds import kind_of

_LAGS = (1, 2)
_BUDGETS = (0.75, 0.5, 0.25)  # of the mean step's rollouts
_SHARES = (0.5, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class Choice:
    """A way to schedule the same steps.

    Attributes:
        name: short description.
        step: mean seconds per step.
        lost: share of the groups that are dropped.
        length: mean length of the responses trained on, relative to all responses.
    """

    name: str
    step: float
    lost: float
    length: float


@dataclass(frozen=True)
class Study:
    """Simulated steps; times in seconds, averaged over the steps.

    Attributes:
        servers: capacity of the rollout servers.
        steps: number of simulated steps.
        done: share of the answers -> time at which they were complete.
        idle: share of server time without a running sample.
        running: mean number of running samples.
        tokens: mean response length.
        longest: longest response of a step.
        tokens_per_second: response tokens of all servers.
        training: training, refit and offload of a step.
        choices: ways to schedule the steps; without a lag first.
        first_step: timeline of the first step.
    """

    servers: Servers
    steps: int
    done: dict[float, float]
    idle: float
    running: float
    tokens: float
    longest: float
    tokens_per_second: float
    training: float
    choices: list[Choice]
    first_step: Timeline

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        data = asdict(self)
        first = {name: value for name, value in data["first_step"].items() if name != "running"}
        data["first_step"] = {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in first.items()}
        return data


def study(recipe: Any, architecture: Architecture | None, lengths: Lengths | None = None) -> Study:
    """Simulate some steps of a GRPO recipe.

    Lag and budget are compared at the same server and trainer speeds, although a lag needs separate GPUs for
    both, which a recipe with ``rollout.sleep`` does not have.

    Args:
        recipe: of stage ``grpo``, with rates in ``plan``.
        architecture: shape of its model.
        lengths: response lengths; None: ``plan.responses``.

    Raises:
        UserError: another stage, or no rates.
    """
    if architecture is None or not kind_of(recipe).on_policy:
        raise UserError(f"--rollouts simulates GRPO steps; {recipe.name} is of stage {recipe.stage}")
    lengths = lengths or times.stated_lengths(recipe)
    serving = server(recipe, architecture)
    if serving.tokens < recipe.model.max_model_len:
        raise UserError(
            f"{recipe.name}: a server's KV cache holds {serving.tokens:,} tokens, less than one full sequence"
        )
    optimizer = max(rank.states.optimizer for rank in memory.ranks(recipe, architecture))
    if why := times.unknown(recipe):
        raise UserError(f"{recipe.name}: {why}")
    lines, computing, *moved = times.simulated_steps(recipe, architecture, serving, optimizer, lengths)
    trainings = [one + moved[0] + moved[1] for one in computing]
    seconds = [line.seconds for line in lines]
    return Study(
        servers=times.servers(recipe, serving, recipe.grpo.samples_per_prompt),
        steps=len(lines),
        done={share: float(np.mean([line.share_done(share) for line in lines])) for share in _SHARES},
        idle=float(np.mean([line.idle() for line in lines])),
        running=float(np.mean([line.mean_running() for line in lines])),
        tokens=float(np.mean([line.lengths.mean() for line in lines])),
        longest=float(np.mean([line.lengths.max() for line in lines])),
        tokens_per_second=sum(int(line.lengths.sum()) for line in lines) / sum(seconds),
        training=float(np.mean(trainings)),
        choices=_choices(recipe, lines, seconds, trainings),
        first_step=lines[0],
    )


def _choices(
    recipe: Any, lines: list[Timeline], seconds: list[float], trainings: list[float]
) -> list[Choice]:
    def of_lag(lag: int) -> float:
        return steps_in_time(seconds, trainings, lag)[-1] / len(lines)

    choices = [Choice("one after the other", of_lag(0), 0.0, 1.0)]
    choices += [Choice(f"lag {lag}", of_lag(lag), 0.0, 1.0) for lag in _LAGS]
    every = float(np.mean([line.lengths.mean() for line in lines]))
    limits = [share * float(np.mean(seconds)) for share in _BUDGETS]
    if recipe.rollout.straggler_timeout_s is not None:
        limits.insert(0, recipe.rollout.straggler_timeout_s)
    for limit in limits:
        kept = [line.within(limit) for line in lines]
        length = float(np.mean([line.lengths[yes].mean() for line, yes in zip(lines, kept, strict=True)]))
        lost = 1 - float(np.mean([yes.mean() for yes in kept]))
        cut = [
            # the step waits for at least one group
            max(min(limit, whole), float(line.ended.max(axis=1).min()))
            for whole, line in zip(seconds, lines, strict=True)
        ]
        # dropped groups are not trained on
        trained = [training * float(yes.mean()) for training, yes in zip(trainings, kept, strict=True)]
        step = steps_in_time(cut, trained, 0)[-1] / len(lines)
        choices.append(Choice(f"straggler budget {limit:.0f} s", step, lost, length / every))
    return choices

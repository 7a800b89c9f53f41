# SPDX-License-Identifier: Apache-2.0
"""How a GRPO step's rollouts run, and what a lag or a straggler budget would buy."""

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
    """A way to run the same steps.

    Attributes:
        name: what is done.
        step: seconds of a step, on average.
        lost: share of the groups that are given up.
        length: mean tokens of a response that is trained on, over that of all.
    """

    name: str
    step: float
    lost: float
    length: float


@dataclass(frozen=True)
class Study:
    """Simulated steps; seconds, on average over them.

    Attributes:
        servers: what the rollouts run on.
        steps: how many were simulated.
        done: share of the answers -> when they were there.
        idle: share of the rollouts' time in which a server had nothing to run.
        running: samples that ran at once.
        tokens: mean length of a response.
        longest: the longest response of a step.
        tokens_per_second: of responses, all servers together.
        training: a step's training, refit and offload.
        choices: the recipe's own way first.
        first_step: what happened in it.
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

    Lag and budget are compared at the same speed of servers and trainer. A lag needs GPUs for each, which a
    recipe whose servers sleep does not have.

    Args:
        recipe: of stage ``grpo``, which states rates.
        architecture: shape of its model.
        lengths: of responses; None: as the recipe states.

    Raises:
        UserError: another stage, or no rates.
    """
    if architecture is None or not kind_of(recipe).on_policy:
        raise UserError(f"--rollouts simulates the steps of grpo; {recipe.name} is of stage {recipe.stage}")
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
            # at least one group is waited for
            max(min(limit, whole), float(line.ended.max(axis=1).min()))
            for whole, line in zip(seconds, lines, strict=True)
        ]
        # what is left out is not trained on either
        trained = [training * float(yes.mean()) for training, yes in zip(trainings, kept, strict=True)]
        step = steps_in_time(cut, trained, 0)[-1] / len(lines)
        choices.append(Choice(f"straggler budget {limit:.0f} s", step, lost, length / every))
    return choices

# SPDX-License-Identifier: Apache-2.0
"""The plan of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from omegaconf import DictConfig

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.models import parameter_counts
from reasongrm_nemo.plan import memory, model, storage, times
from reasongrm_nemo.plan.fit import Misfit, misfits
from reasongrm_nemo.plan.memory import Rank
from reasongrm_nemo.plan.serving import Server, server
from reasongrm_nemo.plan.times import StageTime
from reasongrm_nemo.stage_kinds import kind_of


@dataclass(frozen=True)
class Plan:
    """Predicted cost of a stage; bytes and seconds.

    Attributes:
        recipe: name of the recipe.
        stage: kind of stage.
        devices: number of GPUs (on CPU: ranks).
        parameters: parameters of the model.
        ranks: a trainer rank of each pipeline stage; empty if the stage does not train.
        server: one rollout server, or None.
        served: number of GPUs that the servers use.
        moments: peak bytes on a GPU, by moment (``memory.moments``); empty on CPU.
        host: host memory of a node, by use.
        disk: disk space of the artefact, by content.
        checkpoint: size of a checkpoint; 0 if the stage does not train.
        refit: bytes that a refit sends to each server; 0 outside GRPO.
        time: time of the stage, or why it is unknown.
        misfits: what does not fit.
    """

    recipe: str
    stage: str
    devices: int
    parameters: int
    ranks: list[Rank]
    server: Server | None
    served: int
    moments: dict[str, int]
    host: dict[str, int]
    disk: dict[str, int]
    checkpoint: int
    refit: int
    time: StageTime | str
    misfits: list[Misfit]

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        data = asdict(self)
        for rank, entry in zip(self.ranks, data["ranks"], strict=True):
            entry |= {"parameters": rank.count.total, "peak": rank.peak}
        if self.server is not None:
            data["server"] |= {"tokens": self.server.tokens}
        if isinstance(self.time, StageTime):
            data["time"] |= {"device_hours": self.time.device_hours}
        return data


def plan(recipe: DictConfig) -> Plan | None:
    """The plan of a recipe, or None if its stage has no model (``prepare``, ``filter``).

    Args:
        recipe: from ``recipe.load.load_recipe``.

    Raises:
        UserError: the shape of the model is unknown, or model and recipe do not match.
    """
    architecture = model.architecture(recipe)
    if architecture is None:
        return None
    kind = kind_of(recipe)
    wrong = misfits(recipe, architecture)
    trained = memory.ranks(recipe, architecture)
    serving = server(recipe, architecture) if kind.samples else None
    on_gpu = recipe.cluster.platform == "gpu" and recipe.plan.device_memory_gib
    time: StageTime | str = "it does not fit"
    if not wrong:
        time = times.of_stage(
            recipe,
            architecture,
            serving or server(recipe, architecture),
            max((rank.states.optimizer for rank in trained), default=0),
        )
    return Plan(
        recipe=recipe.name,
        stage=recipe.stage,
        # a stage that only samples runs on one node
        devices=(recipe.cluster.nodes if trained else 1) * recipe.cluster.devices_per_node,
        parameters=parameter_counts.of_model(architecture),
        ranks=trained,
        server=serving,
        served=times.server_count(recipe) * recipe.rollout.tensor_parallel if serving else 0,
        moments=memory.moments(recipe, trained, serving) if on_gpu else {},
        host=memory.host_bytes(recipe, trained),
        disk=storage.disk_bytes(recipe, architecture, times.mean_response(recipe)),
        checkpoint=storage.checkpoint(recipe, architecture) if trained else 0,
        refit=times.refit_bytes(recipe, architecture) if kind.on_policy else 0,
        time=time,
        misfits=wrong,
    )


def check_fit(recipe: DictConfig) -> None:
    """Check that the recipe fits its cluster, before a job is started.

    Args:
        recipe: from ``recipe.load.load_recipe``.

    Raises:
        UserError: the recipe does not fit (names the key to change), or the shape of the model is unknown.
    """
    shape = model.architecture(recipe)
    if shape is not None and (refused := refusal(recipe.name, misfits(recipe, shape))):
        raise refused


def refusal(name: str, wrong: Sequence[Misfit]) -> UserError | None:
    """An error with the first misfit of the recipe ``name``, or None."""
    if not wrong:
        return None
    more = f" (and {len(wrong) - 1} more: {', '.join(m.key for m in wrong[1:])})" if wrong[1:] else ""
    return UserError(f"{name} does not fit: {wrong[0].sentence}{more}")

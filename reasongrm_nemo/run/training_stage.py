# SPDX-License-Identifier: Apache-2.0
"""What the training stages share: what they leave out and make sure of, what they put beside the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reasongrm_nemo.files.documents import read_json
from reasongrm_nemo.files.figures import read_figures
from reasongrm_nemo.judge import JudgeSettings, published_sampling
from reasongrm_nemo.models.architecture import exported_config
from reasongrm_nemo.processes.work_order import write_left_out
from reasongrm_nemo.rollout.server import readers
from reasongrm_nemo.rollout.server.settings import DTYPES
from reasongrm_nemo.run.converted import check_same_weights
from reasongrm_nemo.run.manifest import HashCache
from reasongrm_nemo.run.stage import StageContext


def last_figures(metrics: Path, names: Sequence[str]) -> dict[str, Any]:
    """The number of steps and the named figures of the last one."""
    last: dict[str, Any] = {}
    for _, figures in read_figures(metrics):
        last = figures
    return {"steps": last.get("step", 0)} | {name: last[name] for name in names if name in last}


def leave_out(ctx: StageContext, left_out: Mapping[str, Mapping[str, Sequence[int]]]) -> None:
    """Count records that do not fit this stage's model, say so, and have its ranks leave them out.

    Args:
        ctx: the stage.
        left_out: input's name -> reason -> indices of the records in the file, from 0.
    """
    write_left_out(ctx.work, left_out)
    for reasons in left_out.values():
        for reason, indices in reasons.items():
            if indices:
                ctx.drop(reason, len(indices))
                ctx.console.line(f"  left out: {len(indices)} × {reason}")


def check_export(ctx: StageContext) -> list[str]:
    """The engines that read the stage's ``hf/config.json`` alike; before there is one, as it will be.

    Raises:
        UserError: one of them reads another shape or rope.
    """
    interpreters = readers.pythons(ctx.cfg.cluster)
    if (ctx.work / "hf").is_dir():
        return readers.check_folder(ctx.work / "hf", interpreters)
    file, model = ctx.inputs["model"] / "config.json", ctx.cfg.model
    config = exported_config(read_json(file), str(file), model.rope, DTYPES[model.dtype])
    return readers.check_config(config, f"what would be exported with {file}", interpreters)


def write_judge_settings(ctx: StageContext) -> None:
    """Write hf/judge.json: how the trained judge is asked and read, with its base model's sampling."""
    settings = JudgeSettings.of(ctx.cfg.judge)
    sampling = published_sampling(ctx.inputs["model"])
    replace(settings, sampling=sampling).write(ctx.work / "hf")


def check_start(ctx: StageContext) -> None:
    """What the model begins with and what it will be exported as, before a server or a rank is started.

    Raises:
        UserError: the two keys that name its weights name different ones, or as ``check_export``.
    """
    if megatron := ctx.inputs.get("megatron"):
        check_same_weights(megatron, ctx.inputs["model"], ctx.cfg.model.rope, HashCache())
    check_export(ctx)

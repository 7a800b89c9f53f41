# SPDX-License-Identifier: Apache-2.0
"""Shared by the training stages: records to leave out, checks before the start, and files of the export."""

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
    """The number of steps, and the named figures of the last step."""
    last: dict[str, Any] = {}
    for _, figures in read_figures(metrics):
        last = figures
    return {"steps": last.get("step", 0)} | {name: last[name] for name in names if name in last}


def leave_out(ctx: StageContext, left_out: Mapping[str, Mapping[str, Sequence[int]]]) -> None:
    """Count and report records that do not fit this stage's model, and tell the ranks to leave them out.

    Args:
        ctx: the stage's context.
        left_out: input name -> reason -> indices of the records in the file, from 0.
    """
    write_left_out(ctx.work, left_out)
    for reasons in left_out.values():
        for reason, indices in reasons.items():
            if indices:
                ctx.drop(reason, len(indices))
                ctx.console.line(f"  left out: {len(indices)} × {reason}")


def check_export(ctx: StageContext) -> list[str]:
    """The engines that agree on the stage's ``hf/config.json``, or on the one that it will export.

    Raises:
        UserError: an engine reads a different shape or rope.
    """
    interpreters = readers.pythons(ctx.cfg.cluster)
    if (ctx.work / "hf").is_dir():
        return readers.check_folder(ctx.work / "hf", interpreters)
    file, model = ctx.inputs["model"] / "config.json", ctx.cfg.model
    config = exported_config(read_json(file), str(file), model.rope, DTYPES[model.dtype])
    return readers.check_config(config, f"the config to be exported from {file}", interpreters)


def write_judge_settings(ctx: StageContext) -> None:
    """Write hf/judge.json: how to prompt and parse the trained judge, with the base model's sampling."""
    settings = JudgeSettings.of(ctx.cfg.judge)
    sampling = published_sampling(ctx.inputs["model"])
    replace(settings, sampling=sampling).write(ctx.work / "hf")


def check_start(ctx: StageContext) -> None:
    """Check the initial weights and the future export before a server or a rank starts.

    Raises:
        UserError: model.hf_path and model.megatron_path hold different weights, or as for ``check_export``.
    """
    if megatron := ctx.inputs.get("megatron"):
        check_same_weights(megatron, ctx.inputs["model"], ctx.cfg.model.rope, HashCache())
    check_export(ctx)

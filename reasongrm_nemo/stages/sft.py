# SPDX-License-Identifier: Apache-2.0
"""Stage sft: trains the base model on the selected reasoning paths (section 3.3)."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from reasongrm_nemo.data.jsonl import read_jsonl
from reasongrm_nemo.data.records import SftExample
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.run.stage import StageContext
from reasongrm_nemo.run.trainer_ranks import run_ranks
from reasongrm_nemo.run.training_stage import (
    check_export,
    check_start,
    last_figures,
    leave_out,
    write_judge_settings,
)
from reasongrm_nemo.sft.examples import Examples
from reasongrm_nemo.sft.steps import step_count


def run(ctx: StageContext) -> dict[str, Any]:
    """Write ``hf/`` (the fine-tuned model), ``checkpoints/``, ``left_out.json`` and ``metrics.jsonl``."""
    trained, held_out = _survey(ctx)
    check_start(ctx)
    run_ranks(ctx, "reasongrm_nemo.sft.main", step_count(trained, ctx.cfg.sft))
    write_judge_settings(ctx)
    figures: dict[str, Any] = {"examples": trained, "config_read_by": check_export(ctx)}
    figures |= {"held_out": held_out} if held_out else {}
    return figures | last_figures(ctx.work / "metrics.jsonl", ("loss",))


def _survey(ctx: StageContext) -> tuple[int, int]:
    """Record examples to leave out, before ranks start; return the numbers for training and held out.

    Raises:
        UserError: no example is left for training or for validation.
    """
    file, validation = ctx.inputs["examples"], ctx.cfg.sft.validation
    examples = Examples(ctx.cfg, ctx.inputs["model"])
    left_out: dict[str, list[int]] = defaultdict(list)
    counts = [0, 0]
    for index, example in enumerate(read_jsonl(file, SftExample)):
        if reason := examples.refusal(example):
            left_out[reason].append(index)
        else:
            counts[examples.held_out(example)] += 1
    if not any(counts):
        why = "; ".join(f"{reason}: {len(indices)}" for reason, indices in left_out.items())
        raise UserError(f"inputs.examples: {file} holds no example to train on{why and f' ({why})'}")
    if not counts[0] or (validation.every and not counts[1]):
        part = "to train on" if not counts[0] else "to validate on"
        raise UserError(
            f"sft.validation.fraction {validation.fraction} of the {sum(counts)} examples in {file} leaves "
            f"none {part}; change it, or set sft.validation.every to 0"
        )
    leave_out(ctx, {"examples": left_out})
    return counts[0], counts[1]

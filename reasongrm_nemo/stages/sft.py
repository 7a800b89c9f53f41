# SPDX-License-Identifier: Apache-2.0
"""Stage sft: the base model learns the selected reasoning paths (section 3.3)."""

from __future__ import annotations

from typing import Any

from reasongrm_nemo.data.jsonl import read_jsonl
from reasongrm_nemo.data.records import SftExample
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.stages.context import StageContext
from reasongrm_nemo.stages.ranks import run_ranks
from reasongrm_nemo.stages.training import last_figures


def run(ctx: StageContext) -> dict[str, Any]:
    """Writes ``hf/`` (the fine-tuned model), ``checkpoints/`` and ``metrics.jsonl``."""
    cfg = ctx.cfg.sft
    examples = sum(1 for _ in read_jsonl(ctx.inputs["examples"], SftExample))
    if not examples:
        raise UserError(f"inputs.examples: {ctx.inputs['examples']} holds no example to train on.")
    size = min(cfg.batch_size, examples)
    run_ranks(ctx, "reasongrm_nemo.sft.main", examples // size * cfg.epochs)
    return {"examples": examples} | last_figures(ctx.work / "metrics.jsonl", ("loss",))

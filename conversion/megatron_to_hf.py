# SPDX-License-Identifier: Apache-2.0
"""Convert a Megatron checkpoint to a Hugging Face one for transformers, vLLM; run with the trainer's python.

python conversion/megatron_to_hf.py qwq_megatron qwq_again --verify
python conversion/megatron_to_hf.py runs/qwq_32b/1_grpo_zero zero_hf
python conversion/megatron_to_hf.py runs/…/checkpoints/step_000100 zero_hf --companions QwQ-32B --recipe …
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from shared import common_options, run

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import read_json
from reasongrm_nemo.files.shapes import object_at, shaped
from reasongrm_nemo.megatron.checkpoints import Checkpoints
from reasongrm_nemo.megatron.weights.convert import megatron_to_hf
from reasongrm_nemo.run.commands import Command


@click.command(cls=Command)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--companions",
    type=click.Path(path_type=Path),
    help="Hugging Face folder with the model's config, tokenizer and chat template; required if SOURCE is a "
    "training checkpoint, which lacks these.",
)
@common_options
def main(source: Path, target: Path, companions: Path | None, **options: Any) -> None:
    """Convert the torch_dist checkpoint SOURCE, of any parallelism, to the Hugging Face folder TARGET.

    If SOURCE is the folder of a finished training stage, the checkpoint that the stage exported is converted,
    with the stage's config (including rope) and tokenizer.
    """
    weights = source
    if (source / "manifest.json").is_file() and (source / "checkpoints").is_dir():
        weights = source / "hf"
        source, companions = exported_checkpoint(source), companions or weights
    run(
        lambda *how: megatron_to_hf(source, target, companions, *how),
        target,
        source,
        weights,
        companions=companions or source,
        **options,
    )


def exported_checkpoint(artefact: Path) -> Path:
    """The checkpoint whose weights a finished training stage exported.

    Raises:
        UserError: the stage has no checkpoint any more.
    """
    file = artefact / "manifest.json"
    recipe = shaped(read_json(file), {"recipe": {"stage": str}}, str(file))["recipe"]
    kept = Checkpoints(artefact / "checkpoints", keep=1)
    best = object_at(recipe, recipe["stage"], "validation").get("export") == "best"
    checkpoint = (kept.best() if best else None) or kept.latest()
    if checkpoint is None:
        raise UserError(f"{kept.folder} has no complete checkpoint; the stage's hf/ has the same weights.")
    return checkpoint


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""A Megatron checkpoint as a Hugging Face one, for transformers and vLLM; with the trainer's python.

python conversion/megatron_to_hf.py qwq_megatron qwq_again --verify
python conversion/megatron_to_hf.py runs/…/checkpoints/step_000100 zero_hf --companions QwQ-32B
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from shared import common_options, run

from reasongrm_nemo.cli import Command
from reasongrm_nemo.megatron.weights.convert import megatron_to_hf


@click.command(cls=Command)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--companions",
    type=click.Path(path_type=Path),
    help="Hugging Face folder with the model's config, tokenizer and chat template; needed where SOURCE is a "
    "training checkpoint, which has none.",
)
@common_options
def main(source: Path, target: Path, companions: Path | None, **options: Any) -> None:
    """Write the torch_dist checkpoint SOURCE, of any parallelism, as the Hugging Face folder TARGET."""
    run(lambda *how: megatron_to_hf(source, target, companions, *how), target, source, **options)


if __name__ == "__main__":
    main()

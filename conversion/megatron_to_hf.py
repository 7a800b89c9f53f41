# SPDX-License-Identifier: Apache-2.0
"""A Megatron checkpoint as a Hugging Face one, for transformers and vLLM; with the trainer's python.

python conversion/megatron_to_hf.py qwq_megatron qwq_again --verify
python conversion/megatron_to_hf.py runs/…/checkpoints/step_000100 zero_hf --companions QwQ-32B
"""

from __future__ import annotations

from pathlib import Path

import click
from shared import common_options, finish, rope_of

from reasongrm_nemo.cli import Command
from reasongrm_nemo.megatron.weights.convert import megatron_to_hf
from reasongrm_nemo.megatron.weights.hf_folder import RECIPE_DTYPES


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
def main(
    source: Path,
    target: Path,
    companions: Path | None,
    dtype: str | None,
    recipe: Path | None,
    threads: int | None,
    verify: bool,
    as_json: bool,
) -> None:
    """Write the torch_dist checkpoint SOURCE, of any parallelism, as the Hugging Face folder TARGET."""
    rope = rope_of(recipe)
    chosen = RECIPE_DTYPES[dtype] if dtype else None
    finish(
        lambda: megatron_to_hf(source, target, companions, chosen, rope, threads),
        hf=target,
        megatron=source,
        rope=rope,
        threads=threads,
        verified=verify,
        as_json=as_json,
    )


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face checkpoint as a Megatron one, for NeMo-Aligner; with the trainer's python.

python conversion/hf_to_megatron.py QwQ-32B qwq_megatron -t 8 -p 4 --verify
"""

from __future__ import annotations

from pathlib import Path

import click
from shared import finish, layout_options, rope_of

from reasongrm_nemo.architecture import Layout
from reasongrm_nemo.cli import Command
from reasongrm_nemo.megatron.weights.convert import hf_to_megatron
from reasongrm_nemo.megatron.weights.hf_folder import RECIPE_DTYPES


@click.command(cls=Command)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@layout_options
def main(
    source: Path,
    target: Path,
    tensor_parallel: int | None,
    pipeline_parallel: int | None,
    layers_in_first_stage: int | None,
    layers_in_last_stage: int | None,
    dtype: str | None,
    recipe: Path | None,
    threads: int | None,
    verify: bool,
    as_json: bool,
) -> None:
    """Write the Hugging Face folder SOURCE as TARGET, a folder that NeMo-Aligner restores.

    Its tensors load at any tensor and pipeline parallelism; the options name the one it is cut for.
    """
    from reasongrm_nemo.config import load_recipe

    layout = Layout()
    if recipe is not None:
        layout = Layout.of_cluster(load_recipe(recipe).cluster)
    layout = Layout(
        tensor_parallel or layout.tensor,
        pipeline_parallel or layout.pipeline,
        layers_in_first_stage or layout.first,
        layers_in_last_stage or layout.last,
    )
    rope = rope_of(recipe)
    chosen = RECIPE_DTYPES[dtype] if dtype else None
    finish(
        lambda: hf_to_megatron(source, target, layout, chosen, rope, threads),
        hf=source,
        megatron=target,
        rope=rope,
        threads=threads,
        verified=verify,
        as_json=as_json,
    )


if __name__ == "__main__":
    main()

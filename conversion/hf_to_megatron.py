# SPDX-License-Identifier: Apache-2.0
"""Convert a Hugging Face checkpoint to a Megatron one for NeMo-Aligner; run with the trainer's python.

python conversion/hf_to_megatron.py QwQ-32B qwq_megatron -t 8 -p 4 --verify
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from shared import common_options, run

from reasongrm_nemo.megatron.weights.convert import hf_to_megatron
from reasongrm_nemo.models.architecture import Layout
from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.run.commands import Command

_COUNT = click.IntRange(1)


@click.command(cls=Command)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("-t", "--tensor-parallel", type=_COUNT, help="Tensor-parallel size (default 1).")
@click.option("-p", "--pipeline-parallel", type=_COUNT, help="Number of pipeline stages (default 1).")
@click.option("--layers-in-first-stage", type=_COUNT, help="Layers of the first stage, if stages are uneven.")
@click.option("--layers-in-last-stage", type=_COUNT, help="Layers of the last stage, if stages are uneven.")
@common_options
def main(
    source: Path,
    target: Path,
    tensor_parallel: int | None,
    pipeline_parallel: int | None,
    layers_in_first_stage: int | None,
    layers_in_last_stage: int | None,
    **options: Any,
) -> None:
    """Convert the Hugging Face folder SOURCE to TARGET, a folder that NeMo-Aligner can restore.

    TARGET loads at any tensor and pipeline parallelism; the options optimize its chunks for one of them.
    """
    recipe = options["recipe"]
    stated = Layout.of_cluster(load_recipe(recipe).cluster) if recipe else Layout()
    layout = Layout(
        tensor_parallel or stated.tensor,
        pipeline_parallel or stated.pipeline,
        layers_in_first_stage or stated.first,
        layers_in_last_stage or stated.last,
    )
    run(lambda *how: hf_to_megatron(source, target, layout, *how), source, target, source, **options)


if __name__ == "__main__":
    main()

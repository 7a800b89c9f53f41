# SPDX-License-Identifier: Apache-2.0
"""Options, checks and output that both conversions share."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import torch

from reasongrm_nemo.files.disk import readable_bytes
from reasongrm_nemo.files.documents import read_json
from reasongrm_nemo.megatron.weights import convert
from reasongrm_nemo.megatron.weights.hf_folder import RECIPE_DTYPES
from reasongrm_nemo.models.architecture import exported_config
from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.rollout.server import readers
from reasongrm_nemo.run import converted
from reasongrm_nemo.run.manifest import HashCache, check_path

Conversion = Callable[
    [torch.dtype | None, Mapping[str, Any] | None, int | None, Mapping[str, Any] | None], convert.Converted
]


def common_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that both directions share; ``run`` takes their values."""
    for option in (
        click.option(
            "--if-changed",
            is_flag=True,
            help="Keep TARGET if it was made from the same weights; convert again if they have changed.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON."),
        click.option("--verify", is_flag=True, help="Reread both checkpoints and compare every tensor."),
        click.option(
            "--threads",
            type=click.IntRange(1),
            help="Files written at once (default: 2 per core, at most 8).",
        ),
        click.option(
            "--recipe",
            type=click.Path(path_type=Path),
            help="Use the rope of this recipe and, when converting to Megatron, its layout.",
        ),
        click.option(
            "--dtype", type=click.Choice(list(RECIPE_DTYPES)), help="Data type to write (default: as stored)."
        ),
    ):
        command = option(command)
    return command


def run(
    conversion: Conversion,
    hf: Path,
    megatron: Path,
    weights: Path,
    *,
    dtype: str | None,
    recipe: Path | None,
    threads: int | None,
    verify: bool,
    as_json: bool,
    if_changed: bool,
    companions: Path | None = None,
) -> None:
    """Convert, verify if requested, and print a summary.

    Args:
        conversion: function of dtype, rope, threads and further JSON files for the target.
        hf: the Hugging Face folder, source or target.
        megatron: the Megatron folder, source or target.
        weights: the folder whose weights are converted.
        dtype: see ``common_options``.
        recipe: see ``common_options``.
        threads: see ``common_options``.
        verify: see ``common_options``.
        as_json: see ``common_options``.
        if_changed: see ``common_options``.
        companions: the folder whose config.json is exported; None if none is.
    """
    target = megatron if hf == weights else hf
    cache = _checked({weights, megatron if target == hf else hf}, companions)
    if if_changed:
        if converted.stands(target, weights, cache):
            click.echo(f"{target}: up to date with its source")
            return
        if (target / converted.NOTE).is_file():
            shutil.rmtree(target)  # made from other weights
    # with this note, a stage checks that model.megatron_path matches model.hf_path
    noted = weights.is_dir() and (if_changed or target == megatron)
    beside = {converted.NOTE: converted.note_of(weights, cache)} if noted else None
    rope = None if recipe is None else load_recipe(recipe).model.rope
    if companions is not None:
        check_export(companions, rope)
    started = time.monotonic()
    done = conversion(RECIPE_DTYPES[dtype] if dtype else None, rope, threads, beside)
    seconds = time.monotonic() - started
    compared = convert.verify(hf, megatron, rope, threads) if verify else None
    engines = None if companions is None else readers.check_folder(hf, readers.pythons())
    (_print_json if as_json else _print)(done, seconds, compared, engines)


def _checked(sources: set[Path], companions: Path | None) -> HashCache:
    """Compare files with the hashes that their artefacts recorded."""
    cache = HashCache()
    for source in sources:
        check_path(source, "source", cache)
    if companions is not None:
        check_path(companions, "--companions", cache)
    return cache


def _stored(done: convert.Converted) -> str:
    return str(done.dtype).removeprefix("torch.")


def _print_json(
    done: convert.Converted, seconds: float, compared: int | None, engines: list[str] | None
) -> None:
    figures = dataclasses.asdict(done) | {"folder": str(done.folder), "dtype": _stored(done)}
    figures |= {"seconds": round(seconds, 2), "verified": compared, "config_read_by": engines}
    click.echo(json.dumps(figures))


def _print(done: convert.Converted, seconds: float, compared: int | None, engines: list[str] | None) -> None:
    rate = readable_bytes(int(done.nbytes / max(seconds, 1e-3)))
    click.echo(
        f"{done.folder}: {done.tensors} tensors, {done.parameters:,} parameters, "
        f"{readable_bytes(done.nbytes)} in {_stored(done)}, {seconds:.1f} s ({rate}/s)"
    )
    if engines:
        click.echo(f"config.json is read the same way by {', '.join(engines)}")
    if compared is not None:
        click.echo(f"verified: {compared} tensors are equal on both sides")


def check_export(companions: Path, rope: Mapping[str, Any] | None) -> None:
    """Check before converting that engines read the config.json to be exported as this package does."""
    file = companions / "config.json"
    if file.is_file():
        config = exported_config(read_json(file), str(file), rope, "float32")
        readers.check_config(config, f"the config.json to be exported from {file}", readers.pythons())

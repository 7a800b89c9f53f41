# SPDX-License-Identifier: Apache-2.0
"""What both conversions ask and print."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from reasongrm_nemo.files import readable_bytes
from reasongrm_nemo.megatron.weights.convert import Converted, verify
from reasongrm_nemo.megatron.weights.hf_folder import RECIPE_DTYPES


def common_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of both directions."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON."),
        click.option("--verify", is_flag=True, help="Read both checkpoints again and compare every tensor."),
        click.option(
            "--threads", type=click.IntRange(1), help="Files written at once (default: 2 a core, at most 8)."
        ),
        click.option(
            "--recipe",
            type=click.Path(path_type=Path),
            help="Take the rope, and where it applies the layout, from this recipe.",
        ),
        click.option("--dtype", type=click.Choice(list(RECIPE_DTYPES)), help="Default: as stored."),
    ):
        command = option(command)
    return command


def layout_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of the way in: those of both, and how the checkpoint is cut."""
    command = common_options(command)
    for words, text in (
        (("--layers-in-last-stage",), "Where stages are uneven."),
        (("--layers-in-first-stage",), "Where stages are uneven."),
        (("-p", "--pipeline-parallel"), "Ranks that share the stack of layers (default 1)."),
        (("-t", "--tensor-parallel"), "Ranks that share each layer (default 1)."),
    ):
        command = click.option(*words, type=click.IntRange(1), help=text)(command)
    return command


def rope_of(recipe: Path | None) -> Mapping[str, Any] | None:
    """A recipe's ``model.rope``, or None."""
    from reasongrm_nemo.config import load_recipe

    return None if recipe is None else load_recipe(recipe).model.rope


def finish(
    convert: Callable[[], Converted],
    *,
    hf: Path,
    megatron: Path,
    rope: Mapping[str, Any] | None,
    threads: int | None,
    verified: bool,
    as_json: bool,
) -> None:
    """Convert, verify if asked, and say what was done."""
    started = time.monotonic()
    done = convert()
    seconds = time.monotonic() - started
    compared = verify(hf, megatron, rope, threads) if verified else None
    figures = dataclasses.asdict(done) | {"seconds": round(seconds, 2), "verified": compared}
    if as_json:
        click.echo(json.dumps(figures, default=lambda value: str(value).removeprefix("torch.")))
        return
    click.echo(
        f"{done.folder}: {done.tensors} tensors, {done.parameters:,} parameters, "
        f"{readable_bytes(done.nbytes)} in {figures['dtype']}".replace("torch.", "")
        + f", {seconds:.1f} s ({readable_bytes(int(done.nbytes / max(seconds, 1e-3)))}/s)"
    )
    if compared is not None:
        click.echo(f"verified: {compared} tensors are the same on both sides")

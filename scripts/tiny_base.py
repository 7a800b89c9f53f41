# SPDX-License-Identifier: Apache-2.0
"""Make the tiny judge's base model again: `python scripts/tiny_base.py [--ship]`.

Writes untrained weights and training examples to runs/tiny_base/material, runs the recipes of
recipes/tiny_base through the SFT stage, and with --ship puts the result in place of the shipped weights.
Needs the trainer environment; a few minutes on one core.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from reasongrm_nemo.data import write_jsonl
from reasongrm_nemo.demo.tiny_base import base_examples, write_initial_model
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.recipe.load import recipes_root
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.pipeline import run_pipeline

RUNS = Path("runs/tiny_base")
SHIPPED = Path(__file__).resolve().parents[1] / "reasongrm_nemo" / "assets" / "tiny_judge"
# Not every seed learns to look up the answers of long chains within these steps (see recipes/tiny_base).
SEED = 3
# Steps times the recipe's batch, for one epoch each.
EXAMPLES = {"lookup": 360 * 64, "arithmetic": 1500 * 32, "mixture": 280 * 32}


def write_material(folder: Path, seed: int) -> None:
    """model/ and a file of examples for each phase, the same for the same seed."""
    write_initial_model(folder / "model", seed)
    for phase, count in EXAMPLES.items():
        write_jsonl(folder / f"{phase}.jsonl", base_examples(phase, count, seed))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seed", type=int, default=SEED, help=f"of weights, examples and their order (default {SEED})"
    )
    parser.add_argument("--material-only", action="store_true", help="do not train")
    parser.add_argument("--ship", action="store_true", help="replace the package's weights by the result")
    args = parser.parse_args()
    write_material(RUNS / "material", args.seed)
    print(f"{RUNS / 'material'}: untrained weights and {sum(EXAMPLES.values())} examples")
    if args.material_only:
        return
    overrides = [f"seed={args.seed}", f"runs_dir={RUNS}"]
    outcomes = run_pipeline(recipes_root() / "tiny_base", Console(), overrides=overrides)
    if args.ship:
        shutil.copyfile(outcomes[-1].path / "hf" / "model.safetensors", SHIPPED / "model.safetensors")
        print(f"{SHIPPED}: weights replaced; say so in its README.md")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"tiny_base: {error}")

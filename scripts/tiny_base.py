# SPDX-License-Identifier: Apache-2.0
"""Train the tiny judge's base model again: `python scripts/tiny_base.py [--ship]`.

Writes untrained weights and training examples to runs/tiny_base/material and runs the recipes in
recipes/tiny_base (stage sft); with --ship, the result replaces the shipped weights. Needs the trainer
environment; takes a few minutes on one core.
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
# With some seeds, the model does not learn to look up answers of long chains in these steps
# (see recipes/tiny_base).
SEED = 3
# Steps times the recipe's batch size, for one epoch.
EXAMPLES = {"lookup": 360 * 64, "arithmetic": 1500 * 32, "mixture": 280 * 32}


def write_material(folder: Path, seed: int) -> None:
    """Write model/ and a file of examples for each phase; the same seed gives the same files."""
    write_initial_model(folder / "model", seed)
    for phase, count in EXAMPLES.items():
        write_jsonl(folder / f"{phase}.jsonl", base_examples(phase, count, seed))


def main() -> None:
    """Write the material, then train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seed", type=int, default=SEED, help=f"seed of weights, examples and their order (default {SEED})"
    )
    parser.add_argument(
        "--material-only", action="store_true", help="write weights and examples, but do not train"
    )
    parser.add_argument("--ship", action="store_true", help="replace the shipped weights with the result")
    args = parser.parse_args()
    write_material(RUNS / "material", args.seed)
    print(f"{RUNS / 'material'}: untrained weights and {sum(EXAMPLES.values())} examples")
    if args.material_only:
        return
    overrides = [f"seed={args.seed}", f"runs_dir={RUNS}"]
    outcomes = run_pipeline(recipes_root() / "tiny_base", Console(), overrides=overrides)
    if args.ship:
        shutil.copyfile(outcomes[-1].path / "hf" / "model.safetensors", SHIPPED / "model.safetensors")
        print(f"{SHIPPED}: weights replaced; record this in its README.md")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"tiny_base: {error}")

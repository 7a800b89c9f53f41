# SPDX-License-Identifier: Apache-2.0
"""The paper's Table 3 in miniature, with the tiny judge: SFT on R*'s choice or on a random correct path.

    python benchmarks/table3.py [--seeds 5] [--writers zero base] [--runs runs/tiny]

Uses the tasks, LRM-Zero and its paths from --runs, and first runs the stages up to 2_generate if they are
missing. For each seed, the filter chooses again, the base model is fine-tuned on R*'s choice and on a random
one, and both models answer the held-out questions. With --writers base, the paths come from the base model,
which writes in four styles where LRM-Zero has settled on one, so R* has more to choose from. A seed
determines the random choice, the order of training and the samples of the evaluation. Tasks, paths and
initial weights are the same for all seeds, so the interval does not include their variation.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from datetime import date
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import t as student

from reasongrm_nemo.files.locks import RunsLock
from reasongrm_nemo.files.writes import write_text
from reasongrm_nemo.recipe.load import load_recipe
from reasongrm_nemo.run.console import Console
from reasongrm_nemo.run.rollout_pool import RolloutPool
from reasongrm_nemo.run.stage import run_stage

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes" / "tiny"
CHOICES = {"r_star": "examples.jsonl", "random": "examples_random.jsonl"}
EVALUATE = "defaults: [base/evaluate, model/tiny, cluster/cpu]\nevaluate: {settings: %s, models: %s}\n"
SETTINGS = [{"temperature": 1.0, "samples": 2}]


class Bench:
    """Runs recipes of the tiny pipeline under other names, in one folder, with one rollout pool."""

    def __init__(self, work: Path, made: Path, pool: RolloutPool, console: Console) -> None:
        self.work, self.made, self.pool, self.console = work, made, pool, console
        self.tasks = f"inputs.tasks={made}/0_prepare/tasks.jsonl"
        self.held_out = f"inputs.tasks={made}/0_prepare/validation.jsonl"

    def prepare(self) -> None:
        if not (self.made / "2_generate" / "manifest.json").is_file():
            with RunsLock(self.made):
                for name in ("0_prepare", "1_grpo_zero", "2_generate"):
                    cfg = load_recipe(RECIPES / f"{name}.yaml", [f"runs_dir={self.made}"])
                    run_stage(cfg, self.console, self.pool)

    def run(self, recipe: Path, name: str, *words: str) -> Path:
        cfg = load_recipe(recipe, [f"runs_dir={self.work}", f"name={name}", *words])
        return run_stage(cfg, self.console, self.pool).path

    def paths(self, writer: str) -> Path:
        if writer == "zero":
            return self.made / "2_generate" / "paths.jsonl"
        words = [self.tasks, "model.hf_path=asset:tiny_judge"]
        return self.run(RECIPES / "2_generate.yaml", "base_paths", *words) / "paths.jsonl"

    def compare(self, writer: str, seeds: int) -> dict:
        paths = self.paths(writer)
        accuracy: dict[str, list[float]] = {choice: [] for choice in CHOICES}
        for seed in range(1, seeds + 1):
            drawn, chosen = f"seed={seed}", f"{writer}_{seed}_filter"
            report = self.run(RECIPES / "3_filter.yaml", chosen, self.tasks, f"inputs.paths={paths}", drawn)
            models = {}
            for choice, file in CHOICES.items():
                name = f"{writer}_{seed}_{choice}"
                self.run(RECIPES / "4_sft.yaml", name, f"inputs.examples=@{chosen}/{file}", drawn)
                models[choice] = f"@{name}/hf"
            recipe = self.work / f"{writer}_{seed}_evaluate.yaml"
            write_text(recipe, EVALUATE % (json.dumps(SETTINGS), json.dumps(models)))
            scores = json.loads(
                (self.run(recipe, recipe.stem, self.held_out, drawn) / "scores.json").read_text()
            )
            for score in scores["scores"]:
                accuracy[score["model"]].append(score["accuracy"]["value"])
        figures = json.loads((report / "report.json").read_text())
        return {
            "accuracy": accuracy,
            "tasks": figures["sets"]["chosen_r_star"]["paths"],
            "other_path": 1 - (figures["agreement"]["random"] or 0.0),
            "right_above_wrong": figures["right_above_wrong"],
        }


def interval(values: list[float]) -> tuple[float, float]:
    """Mean over the seeds, and half the width of its 95 % interval by Student's t."""
    half = student.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return mean(values), float(half)


def as_table(rows: dict) -> str:
    lines = ["| paths by | R*, % | random, % | R* − random, points | tasks | another path chosen |"]
    lines.append("|---|---|---|---|---|---|")
    for writer, row in rows.items():
        pairs = zip(row["accuracy"]["r_star"], row["accuracy"]["random"], strict=True)
        columns = [*row["accuracy"].values(), [a - b for a, b in pairs]]
        cells = ["{:.2f} ± {:.2f}".format(*interval([100 * x for x in column])) for column in columns]
        share = f"{row['other_path']:.0%}"
        lines.append(f"| {writer} | {' | '.join(cells)} | {row['tasks']} | {share} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--writers", nargs="+", default=["zero", "base"], choices=("zero", "base"))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "tiny")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "benchmarks")
    args = parser.parse_args()
    work, console = args.work.absolute() / "table3", Console()
    with RunsLock(work), RolloutPool(work / ".logs", console) as pool:
        bench = Bench(work, args.runs.absolute(), pool, console)
        bench.prepare()
        rows = {writer: bench.compare(writer, args.seeds) for writer in args.writers}
    load = os.getloadavg()[0]
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the end\n")
    print(as_table(rows))
    (args.work / "table3.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

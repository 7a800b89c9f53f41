# SPDX-License-Identifier: Apache-2.0
"""Share of a GRPO step that is neither rollout nor forward and backward passes.

    python benchmarks/step_share.py --model smollm2|tiny [--steps N]
    python benchmarks/step_share.py --metrics runs/tiny/1_grpo_zero/metrics.jsonl

Runs the model's recipe 1_grpo_zero for a few steps, by the command line, and reads its metrics. A step lasts
from one line of metrics to the next, so it includes everything in between, such as checkpoints.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import FOLDERS, ROOT, arguments, prepared, report

PARTS = {
    "rollout_s": "rollout and rewards",
    "forward_backward_s": "forward and backward",
    "optimizer_s": "gradient reduction, clipping, optimizer",
    "refit_s": "refit",
    "checkpoint_s": "checkpoint",
}


def shares(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of each part over all steps but the first, with ``step_s`` (the total) and ``rest_s``.

    Args:
        lines: of metrics.jsonl; at least two.
    """
    first, *lines = lines
    total = {name: sum(line.get(name, 0.0) for line in lines) for name in PARTS}
    step = lines[-1]["time"] - first["time"]
    return total | {"step_s": step, "rest_s": step - sum(total.values())}


def run(args: argparse.Namespace) -> Path:
    """Run the recipe for a few steps; returns its metrics file."""
    prepared(args.model, args.work)
    runs = (args.work / args.model).resolve()
    for old in runs.glob("*1_grpo_zero*"):
        shutil.rmtree(old)
    command = [sys.executable, "-m", "reasongrm_nemo", "run", f"{FOLDERS[args.model]}/1_grpo_zero.yaml"]
    command += [f"runs_dir={runs}"] + ([f"grpo.steps={args.steps}"] if args.steps else [])
    done = subprocess.run([*command, *args.set], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr + done.stdout)
    return runs / "1_grpo_zero" / "metrics.jsonl"


def main() -> None:
    """Run the recipe if needed, and print the table."""
    parser = arguments(__doc__.splitlines()[0])
    for action in parser._actions:
        action.required = False
    parser.set_defaults(model="run")
    parser.add_argument("--metrics", type=Path, help="metrics of an earlier run, instead of a new one")
    parser.add_argument("--steps", type=int, help="number of steps; default: the recipe's")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the recipe"
    )
    args = parser.parse_args()
    if args.metrics is None and args.model not in FOLDERS:
        parser.error("name a --model or a --metrics file")
    load = os.getloadavg()[0]
    path = args.metrics or run(args)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if len(lines) < 2:
        sys.exit(f"{path} holds {len(lines)} steps; two are needed")
    parts = shares(lines)
    steps = len(lines) - 1
    table = [["", "s a step", "share"]]
    for name, label in {**PARTS, "rest_s": "all else"}.items():
        table.append([label, f"{parts[name] / steps:.3f}", f"{parts[name] / parts['step_s']:.1%}"])
    worked = (parts["rollout_s"] + parts["forward_backward_s"]) / parts["step_s"]
    table.append(["neither rollout nor forward and backward", "", f"**{1 - worked:.1%}**"])
    setting = f"{args.model}, {steps} steps of {parts['step_s'] / steps:.2f} s"
    report("step_share", args, setting, table, {"steps": [{"load": load} | parts]})


if __name__ == "__main__":
    main()

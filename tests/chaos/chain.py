# SPDX-License-Identifier: Apache-2.0
"""The whole method in its smallest size, the runs folder of an uninterrupted run, and comparisons with it."""

import json
import re
import shutil
from pathlib import Path

from chaos.runs import ROOT, Run, command, environment

RECIPES = ROOT / "recipes" / "tiny"
_SAMPLED = ["rollout.stall_timeout_s=60", "rollout.start_timeout_s=200"]
_TRAINED = ["cluster.threads_per_rank=1"]
# the stand-in's log-probs are made up, so the gap between the engines means nothing
_GRPO = [
    *_SAMPLED, *_TRAINED, "grpo.steps=4", "grpo.prompts_per_step=3", "grpo.samples_per_prompt=4",
    "grpo.save_every=2", "grpo.max_tasks=12",
    "grpo.log_prob_gap={warn: {fp32: 1.0e9, bf16: 1.0e9, lagged: 1.0e9},"
    " stop: {fp32: 1.0e9, bf16: 1.0e9, lagged: 1.0e9}}",
]  # fmt: skip
STAGES = {
    "0_prepare": ["prepare.tiny_judge={train: 36, validation: 8}"],
    "1_grpo_zero": _GRPO,
    "2_generate": [*_SAMPLED, "generate.skip_tasks=0", "generate.max_tasks=12", "generate.samples=4"],
    "3_filter": [],
    "4_sft": [*_TRAINED, "sft.batch_size=4", "sft.epochs=1", "sft.save_every=1"],
    "5_mine": [*_SAMPLED, "mine.skip_tasks=12", "mine.max_tasks=12"],
    "6_grpo_hard": [*_GRPO, "grpo.steps=2", "grpo.save_every=1"],
    "7_evaluate": [
        *_SAMPLED, "evaluate.models={base: 'asset:tiny_judge', final: '@6_grpo_hard/hf'}",
        "evaluate.settings=[{temperature: 1.0, samples: 2}]", "evaluate.max_tasks=6",
    ],
}  # fmt: skip
# Fields that may differ from run to run: times, speeds, paths.
_VOLATILE = re.compile(r"^(time|seconds|tokens_per_second|.*_s|.*_time|servers_lost|memory.*|.*_mib|.*_gib)$")
_NOT_COMPARED = {
    "manifest.json",
    "stage.log",
    "trainer.log",
    "work_order.json",
    "failures.jsonl",
    "server_losses.jsonl",
}


def words(stage, runs, *more):
    """The command of one stage."""
    overrides = [*STAGES[stage], "judge.date=2026-11-01", *more]
    return command("run", RECIPES / f"{stage}.yaml", f"runs_dir={runs}", *overrides)


def unbroken(work, last):
    """The runs folder of an uninterrupted run up to a stage, made once per work folder."""
    runs, stages = work / "unbroken", [*STAGES]
    for stage in stages[: stages.index(last) + 1]:
        if not (runs / stage).exists():
            status, output = Run(words(stage, runs), environment()).end(1200)
            if status:
                raise SystemExit(f"the unbroken run fell at {stage}:\n{output}")
    return runs


def before(stage, whole, runs):
    """A runs folder as it is when `stage` is about to begin."""
    shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir(parents=True)
    for earlier in STAGES:
        if earlier == stage:
            break
        shutil.copytree(whole / earlier, runs / earlier, ignore=shutil.ignore_patterns("checkpoints"))
    return runs


def difference(stage, whole, runs):
    """The first file that differs from the uninterrupted run's artefact; "" if none does."""
    mine, theirs = files(runs / stage), files(whole / stage)
    if mine.keys() != theirs.keys():
        return f"files differ: {sorted(mine.keys() ^ theirs.keys())[:3]}"
    for name in theirs:
        if mine[name] != theirs[name]:
            return f"{name} differs"
    return ".partial still holds it" if (runs / ".partial" / stage).exists() else ""


def files(artefact):
    """File name -> content, without fields that may differ."""
    by_name = {}
    for path in sorted(artefact.rglob("*")):
        name = str(path.relative_to(artefact))
        if path.is_file() and path.name not in _NOT_COMPARED and not name.startswith("checkpoints/"):
            by_name[name] = _stable(path, artefact.parent)
    by_name["manifest.json"] = _manifest(artefact)
    return by_name


def _stable(path, runs):
    if path.name in ("metrics.jsonl", "validation.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [{key: value for key, value in row.items() if not _VOLATILE.match(key)} for row in rows]
    return path.read_bytes().replace(str(runs).encode(), b"RUNS")


def _manifest(artefact):
    data = json.loads((artefact / "manifest.json").read_text())
    kept = {key: data[key] for key in ("name", "stage", "seed", "drops", "key")}
    return kept | {"inputs": {name: entry["sha256"] for name, entry in data["inputs"].items()}}


def copy(whole, runs):
    """Copy the whole uninterrupted run."""
    shutil.rmtree(runs, ignore_errors=True)
    shutil.copytree(whole, runs, ignore=shutil.ignore_patterns("checkpoints"))
    return Path(runs)

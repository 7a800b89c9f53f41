# SPDX-License-Identifier: Apache-2.0
"""Time and peak memory of filter and mine on generated paths, compared with a plain pandas version.

    python benchmarks/filter_mine.py [--tasks 80000] [--samples 8] [--tokens 2000] [--chars 8000]

Writes tasks and paths with random texts and probability sums (5 GB at full size; --chars 0 leaves the texts
empty), then runs each contender in a separate process, one after the other. filter is the whole stage: checks
of every record, the report, the extremes, both example files. mine is everything that the stage does after
sampling. pandas loads the file, makes the same choice or finds the same hard tasks, and writes them, without
checks or a report. The results are compared, to be sure that both did the same work.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONTENDERS = ("filter", "filter pandas", "mine", "mine pandas")
WORDS = "the answer that is right because code however clear it holds so better than first second gives which"
MARKERS = "wait hmm actually"
MARKED = 0.01  # share of hesitation words; counting them takes time in proportion to their number
SEED = 1


def generate(work: Path, tasks: int, samples: int, tokens: int, chars: int) -> None:
    """Write tasks.jsonl and paths.jsonl into `work`."""
    rng, words, markers = random.Random(SEED), WORDS.split(), MARKERS.split()

    def word() -> str:
        return rng.choice(markers if rng.random() < MARKED else words)

    texts = [" ".join(word() for _ in range(chars // 4))[:chars] for _ in range(64)]
    question = " ".join(rng.choice(words) for _ in range(600))
    with (work / "tasks.jsonl").open("w") as file:
        for n in range(tasks):
            messages = [{"role": "user", "content": f"{n} {question}"}]
            task = {"id": f"task{n}", "pair_id": f"{n}", "source": "made", "messages": messages}
            file.write(json.dumps(task | {"label": "A", "order": "chosen_first"}) + "\n")
    with (work / "paths.jsonl").open("w") as file:
        for n in range(tasks):
            chance = rng.random()
            for sample in range(samples):
                right = rng.random() < chance
                reasoning, answer = rng.randrange(tokens // 2, tokens * 3 // 2), rng.randrange(1, 40)
                path = {
                    "task_id": f"task{n}",
                    "sample": sample,
                    "text": rng.choice(texts),
                    "reasoning_tokens": reasoning,
                    "answer_tokens": answer,
                    "reasoning_prob_sum": reasoning * rng.uniform(0.5, 1.0),
                    "answer_prob_sum": answer * rng.uniform(0.5, 1.0),
                    "verdict": "A" if right else "B",
                    "parse_status": "ok",
                    "correct": right,
                    "finish_reason": "stop",
                    "model": "made",
                }
                file.write(json.dumps(path) + "\n")


def contend(name: str, work: Path) -> dict[str, float]:
    """Run one contender in this process; returns its time, without imports, and peak memory."""
    out = work / name.replace(" ", "_")
    out.mkdir(exist_ok=True)
    run = {"filter": run_filter, "filter pandas": pandas_filter, "mine": run_mine, "mine pandas": pandas_mine}
    go = run[name](work, out)
    started, worked = time.perf_counter(), time.process_time()
    go()
    seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    return {"seconds": seconds, "cpu": cpu, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def run_filter(work: Path, out: Path):
    from reasongrm_nemo.recipe.load import load_recipe
    from reasongrm_nemo.run.console import Console
    from reasongrm_nemo.run.stage import StageContext
    from reasongrm_nemo.stages import filter as stage

    inputs = {name: work / f"{name}.jsonl" for name in ("paths", "tasks")}
    words = [f"inputs.{name}={path}" for name, path in inputs.items()]
    cfg = load_recipe(ROOT / "recipes" / "tiny" / "3_filter.yaml", [f"runs_dir={work}", *words])
    ctx = StageContext(cfg, out, inputs, Console(quiet=True), logging.getLogger("bench"), None)
    return lambda: stage.run(ctx)


def run_mine(work: Path, out: Path):
    from reasongrm_nemo.data import write_jsonl
    from reasongrm_nemo.rewards import choose_hard
    from reasongrm_nemo.stages.mine import Mined
    from reasongrm_nemo.stages.tasks import load_tasks

    def go() -> None:
        tasks = load_tasks(work / "tasks.jsonl")
        mined = Mined(work / "paths.jsonl", None)
        cases, _ = choose_hard(mined.cases, {task.id: task.source for task in tasks}, SEED)
        write_jsonl(out / "hard.jsonl", mined.records(cases, tasks))

    return go


def _ranked(work: Path):
    import pandas as pd

    paths = pd.read_json(work / "paths.jsonl", lines=True)
    paths["validity"] = paths.answer_prob_sum / paths.answer_tokens
    paths["r_star"] = paths.reasoning_prob_sum / paths.reasoning_tokens * paths.validity
    paths["length"] = paths.reasoning_tokens + paths.answer_tokens
    right = paths[paths.correct & (paths.finish_reason != "length")]
    by = ["r_star", "validity", "length", "sample"]
    best = right.sort_values(by, ascending=[False, False, True, True]).drop_duplicates("task_id")
    return paths, best, pd.read_json(work / "tasks.jsonl", lines=True)


def pandas_filter(work: Path, out: Path):
    import pandas as pd  # noqa: F401  (before the clock starts)

    def go() -> None:
        paths, best, tasks = _ranked(work)
        drawn = paths[paths.correct].groupby("task_id").sample(1, random_state=SEED)
        for name, chosen in (("examples", best), ("examples_random", drawn)):
            rows = chosen.merge(tasks, left_on="task_id", right_on="id").sort_values("task_id")
            rows["messages"] = [
                [*messages, {"role": "assistant", "content": text}]
                for messages, text in zip(rows.messages, rows.text, strict=True)
            ]
            kept = rows[["task_id", "messages", "r_star", "sample"]] if "r_star" in rows else rows
            kept.to_json(out / f"{name}.jsonl", orient="records", lines=True)

    return go


def pandas_mine(work: Path, out: Path):
    import pandas as pd  # noqa: F401

    def go() -> None:
        paths, best, tasks = _ranked(work)
        groups = paths.sort_values("sample").groupby("task_id")
        summary = groups.agg(answers=("verdict", list), accuracy=("correct", "mean"))
        hard = tasks.merge(summary[summary.accuracy < 1], left_on="id", right_index=True)
        hard = hard.merge(best[["task_id", "text"]], left_on="id", right_on="task_id", how="left")
        hard = hard.rename(columns={"text": "rationale"}).drop(columns="task_id")
        hard.to_json(out / "hard.jsonl", orient="records", lines=True)

    return go


def same_choice(work: Path) -> int:
    """Compare the chosen and mined records; returns their number, or ends the run at a difference."""
    counts = 0
    for ours, theirs, name, fields in (
        ("filter", "filter_pandas", "examples.jsonl", ("task_id", "messages")),
        ("mine", "mine_pandas", "hard.jsonl", ("id", "answers", "accuracy", "rationale")),
    ):
        with (work / ours / name).open() as left, (work / theirs / name).open() as right:
            for a, b in zip(left, right, strict=True):
                one, other = json.loads(a), json.loads(b)
                if any(one.get(field) != other.get(field) for field in fields):
                    raise SystemExit(f"{name}: {one[fields[0]]} and {other[fields[0]]} differ")
                counts += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=80_000)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument(
        "--tokens", type=int, default=2000, help="mean number of tokens of a path's reasoning"
    )
    parser.add_argument("--chars", type=int, default=8000, help="characters of a path's text")
    parser.add_argument("--folder", type=Path, help="where to write the files; default: the temporary folder")
    parser.add_argument(
        "--skip-pandas", action="store_true", help="pandas holds everything: 20 GB at full size"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "benchmarks")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        print(json.dumps(contend(args.contender, args.folder)))
        return
    names = [name for name in CONTENDERS if not (args.skip_pandas and name.endswith("pandas"))]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        generate(Path(folder), args.tasks, args.samples, args.tokens, args.chars)
        size = (Path(folder) / "paths.jsonl").stat().st_size
        figures = {}
        for name in names:
            command = [sys.executable, __file__, "--contender", name, "--folder", folder]
            load = os.getloadavg()[0]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{name} failed: {done.stderr.strip().splitlines()[-1:]}")
            figures[name] = json.loads(done.stdout.splitlines()[-1]) | {"load": load}
        compared = 0 if args.skip_pandas else same_choice(Path(folder))
    print(
        f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores; {args.tasks} tasks x {args.samples} "
        f"paths, {size / 2**20:.0f} MiB; {compared} records compared equal\n"
    )
    print("| | seconds | CPU seconds | peak MiB | load before |\n|---|---|---|---|---|")
    for name, row in figures.items():
        cells = [f"{row[key]:.1f}" for key in ("seconds", "cpu")] + [
            f"{row['mib']:.0f}",
            f"{row['load']:.1f}",
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    args.work.mkdir(parents=True, exist_ok=True)
    result = {"date": str(date.today()), "arguments": vars(args), "figures": figures}
    (args.work / "filter_mine.json").write_text(json.dumps(result, default=str, indent=1))


if __name__ == "__main__":
    main()

"""Time of scoring verdict logs of 200,000 judgements: in memory, from a file, and by the whole command."""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

from reasongrm_nemo.data.jsonl import read_jsonl, write_jsonl
from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.evaluation import rewardbench, rm_bench, rmb
from reasongrm_nemo.evaluation.benchmarks import score_log, score_rows

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = (rewardbench.BENCHMARK, rm_bench.BENCHMARK, rmb.BENCHMARK)


def pairs_of(benchmark: str):
    """(subset, item, cell) of every pair in the benchmark."""
    if benchmark == rewardbench.BENCHMARK:
        return [(name, str(i), None) for name, count in rewardbench.ITEMS.items() for i in range(count)]
    if benchmark == rm_bench.BENCHMARK:
        cells = sorted(rm_bench.CELLS)
        return [
            (name, str(i), c) for name, count in rm_bench.ITEMS.items() for i in range(count) for c in cells
        ]
    keys = []
    for name, (items, pairs) in rmb.counts().items():
        cells = max(1, round(pairs / items)) if rmb.is_best_of_n(name) else None
        for i in range(items):
            keys += [(name, str(i), str(c)) for c in range(cells)] if cells else [(name, str(i), None)]
    return keys


def log_of(benchmark: str, judgements: int, chars: int):
    """Verdicts on every pair, as many times as fit into this number of judgements."""
    rng, pairs = random.Random(1), pairs_of(benchmark)
    filler = "some reasoning about answer A and answer B, " * (chars // 44 + 1)
    for sample in range(judgements // len(pairs)):
        for number, (subset, item, cell) in enumerate(pairs):
            order = ("chosen_first", "rejected_first")[rng.random() < 0.5]
            side = ("A", "B")[rng.random() < 0.5]
            text = f"{filler[: chars - 20]}</think>[[{side}]]"
            right = (side == "A") == (order == "chosen_first")
            yield Verdict(
                *(benchmark, subset, item, cell, order, side, right, False, "ok", 200, text),
                sample=sample, turns=1, chosen_chars=number % 97, rejected_chars=number % 89, prompt_id=item,
            )  # fmt: skip


def cpu() -> float:
    """CPU seconds of this process and its finished children; less affected by other work than wall time."""
    return sum(os.times()[:4])


def timed(work, rounds: int) -> list[dict[str, float]]:
    times = []
    for _ in range(rounds):
        wall, used = time.perf_counter(), cpu()
        work()
        times.append({"wall": time.perf_counter() - wall, "cpu": cpu() - used})
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judgements", type=int, default=200_000)
    parser.add_argument("--chars", type=int, default=300, help="length of a judgement's text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "benchmarks")
    args = parser.parse_args()
    figures = []
    for benchmark in BENCHMARKS:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "log.jsonl"
            count = write_jsonl(file, log_of(benchmark, args.judgements, args.chars))
            size, load = file.stat().st_size / 1e6, os.getloadavg()[0]
            rows = list(read_jsonl(file, Verdict))
            command = [sys.executable, "-m", "reasongrm_nemo", "score", benchmark, str(file), "--json"]
            work = {
                "scores": lambda b=benchmark, r=rows: score_rows(b, "x", r, draws=0),
                "scores and bootstrap": lambda b=benchmark, r=rows: score_rows(b, "x", r),
                "with details": lambda b=benchmark, r=rows: score_rows(b, "x", r, details=True),
                "from the file": lambda b=benchmark, f=file: score_log(b, [f]),
                "the command": lambda c=command: subprocess.run(c, check=True, stdout=subprocess.DEVNULL),
            }
            seconds = {name: timed(task, args.rounds) for name, task in work.items()}
        figures.append({"benchmark": benchmark, "judgements": count, "mb": size, "load": load, **seconds})
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"{date.today()}, {machine}; CPU seconds (wall), the best of {args.rounds}\n")
    names = list(work)
    print("| | judgements | MB | load before | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 4))
    for row in figures:
        best = [min(row[name], key=lambda times: times["cpu"]) for name in names]
        shown = " | ".join(f"{times['cpu']:.2f} ({times['wall']:.2f})" for times in best)
        print(
            f"| {row['benchmark']} | {row['judgements']:,} | {row['mb']:.0f} | {row['load']:.1f} | {shown} |"
        )
    args.work.mkdir(parents=True, exist_ok=True)
    (args.work / "score.json").write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()

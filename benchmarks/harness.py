# SPDX-License-Identifier: Apache-2.0
"""Shared code of the benchmarks: prepared models and tasks, contenders that wait for their turn, tables.

A contender is a process that is started once and then runs one round per request, so that the rounds of
several contenders can alternate without a new start for every round. Contenders run in three environments,
so their side uses only the standard library.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
FOLDERS = {"smollm2": "recipes/smollm2", "tiny": "recipes/tiny"}
_MARK = "@@"


# ---- the contenders' side


def answer(**figures: Any) -> None:
    """Send the figures of a round to the driver."""
    print(_MARK + json.dumps(figures), flush=True)


def await_turn() -> str:
    """Wait for the driver's next request; exits when the driver ends."""
    line = sys.stdin.readline()
    if not line or line.strip() == "end":
        sys.stdout.flush()
        os._exit(0)  # skip the libraries' exit handlers
    return line.strip()


# ---- the driver's side


class Contender:
    """A process that runs one round per turn.

    Args:
        name: for messages and its log.
        command: starts the process, which must answer once when it is ready.
        work: folder for its log.
        env: variables to add to this process's environment.
        server: id of a process that works for the contender; its CPU time counts too.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        work: Path,
        env: dict[str, str],
        server: int | None = None,
    ) -> None:
        self.name, self.log, self._server = name, work / f"{name}.log", server
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
            )

    def answer(self) -> dict[str, Any]:
        """Wait for the next answer; ends the benchmark if the process has ended."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_MARK):
                return dict(json.loads(line.removeprefix(_MARK)))
        sys.exit(f"{self.name} ended with status {self._process.wait()}; see {self.log}")

    def turn(self, what: str = "go") -> dict[str, Any]:
        """Run one round; returns its figures, its ``seconds`` and ``cpu_s``, and the load before it."""
        assert self._process.stdin is not None
        roots = {self._process.pid, self._server}
        load, began, cpu = os.getloadavg()[0], time.monotonic(), _cpu_seconds(roots)
        print(what, file=self._process.stdin, flush=True)
        figures = self.answer()
        seconds, cpu = time.monotonic() - began, _cpu_seconds(roots) - cpu
        return {"load": load, "seconds": seconds, "cpu_s": cpu} | figures

    def end(self) -> None:
        """End the process by closing its input; kill it if that fails."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def _cpu_seconds(roots: set[int | None]) -> float:
    """CPU seconds used so far by these processes and their live descendants.

    Unlike wall time, this is comparable while others use the machine; but only with one thread, because idle
    threads of a team wait by spinning.
    """
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # the process has ended
        pid = int(stat.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    mine = {pid for pid in parents if pid in roots}
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return sum(ticks[pid] for pid in mine) / os.sysconf("SC_CLK_TCK")


def by_turns(contenders: Sequence[Contender], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Run a warm-up turn of each contender, then A B A B ...; returns the figures by name."""
    for contender in contenders:
        contender.turn()
    figures: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            figures[contender.name].append(contender.turn())
            print(f"  {contender.name}: {figures[contender.name][-1]}", file=sys.stderr, flush=True)
    return figures


def arguments(description: str, models: Iterable[str] = tuple(FOLDERS)) -> argparse.ArgumentParser:
    """A parser with the options that the benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", choices=list(models), required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads per contender"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "benchmarks", help="folder for models, logs and JSON"
    )
    return parser


def prepared(model: str, work: Path) -> tuple[Path, Path]:
    """(Hugging Face folder, tasks file) of a model's recipes; runs stage prepare once per work folder."""
    from reasongrm_nemo.recipe.load import load_recipe, resolve_path

    folder = FOLDERS[model]
    runs = (work / model).resolve()
    if not (runs / "0_prepare" / "tasks.jsonl").exists():
        print(f"preparing {model}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "reasongrm_nemo", "run", f"{folder}/0_prepare.yaml"]
        done = subprocess.run([*command, f"runs_dir={runs}"], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"preparing {model}: {done.stderr}{done.stdout}")
    recipe = load_recipe(ROOT / folder / "1_grpo_zero.yaml", [f"runs_dir={runs}"])
    return resolve_path(recipe.model.hf_path, runs).resolve(), runs / "0_prepare" / "tasks.jsonl"


def grpo_recipe(model: str, work: Path, overrides: Sequence[str] = ()) -> Any:
    """Load the model's first GRPO recipe."""
    from reasongrm_nemo.recipe.load import load_recipe

    path = ROOT / FOLDERS[model] / "1_grpo_zero.yaml"
    return load_recipe(path, [f"runs_dir={(work / model).resolve()}", *overrides])


def prompts(recipe: Any, model_dir: Path, tasks: Path, count: int) -> list[tuple[str, list[int]]]:
    """Text and tokens of the first ``count`` prompts; repeats the file if it has fewer."""
    from reasongrm_nemo.data.jsonl import read_tasks
    from reasongrm_nemo.models.tokenization import load_tokenizer

    tokenizer = load_tokenizer(model_dir, recipe.judge.date)
    texts = [
        tokenizer.render(task.messages, add_generation_prompt=True) + recipe.judge.response_prefix
        for task in read_tasks(tasks)
    ]
    return [(text, tokenizer.encode(text)) for text in (texts[i % len(texts)] for i in range(count))]


def rollout_python() -> str:
    """The rollout environment's interpreter."""
    value = os.environ.get("REASONGRM_ROLLOUT_PYTHON")
    return value or sys.exit("REASONGRM_ROLLOUT_PYTHON is not set: make setup, then `. .envs/env.sh`")


def middle(rounds: Iterable[dict[str, Any]], name: str) -> float:
    """The median of a figure over rounds."""
    return median(figures[name] for figures in rounds)


def listed(rounds: Iterable[dict[str, Any]], name: str, form: str = ".2f") -> str:
    """A figure's value in each round, for a table."""
    return ", ".join(f"{figures[name]:{form}}" for figures in rounds)


def report(
    name: str, args: argparse.Namespace, setting: str, table: Sequence[Sequence[str]], raw: Any
) -> None:
    """Print a Markdown table with the setting and the machine, and write all figures as JSON."""
    rows = ["| " + " | ".join(cells) + " |" for cells in table]
    rows.insert(1, "|" + "---|" * len(table[0]))
    loads = [figures["load"] for rounds in raw.values() for figures in rounds]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load before a turn {max(loads):.1f} at most"
    print(f"{setting}; {machine}, {date.today()}.\n\n" + "\n".join(rows))
    path = args.work / f"{name}_{args.model}.json"
    path.write_text(
        json.dumps({"setting": setting, "date": str(date.today()), "rounds": raw}, indent=1) + "\n"
    )
    print(f"\n{path}", file=sys.stderr)

# SPDX-License-Identifier: Apache-2.0
"""Scores an evaluation's runs on published benchmarks, compares them, and writes tables and pages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation.accuracy import Accuracy
from reasongrm_nemo.evaluation.benchmarks import ScoredRun, read_log, score_log
from reasongrm_nemo.evaluation.compare import compare_runs
from reasongrm_nemo.evaluation.policies import get_policy
from reasongrm_nemo.evaluation.registry import MODULES
from reasongrm_nemo.files.writes import write_text
from reasongrm_nemo.judge import JudgeSampling
from reasongrm_nemo.report import paper_tables
from reasongrm_nemo.report.page import Disagreements, page
from reasongrm_nemo.report.scores import percent
from reasongrm_nemo.run.stage import StageContext
from reasongrm_nemo.stages.judges import Judge, Setting


@dataclass
class _Scored:
    """A scored run with its model and setting; a log from `evaluate.logs` has no setting."""

    run: ScoredRun
    model: str
    setting: Setting | None = None
    sampling: JudgeSampling | None = None
    samples: int | None = None

    def to_dict(self) -> dict[str, Any]:
        made = {
            "model": self.model,
            "setting": self.setting.words if self.setting else None,
            "sampling": self.sampling.words() if self.sampling else None,
            "temperature": self.sampling.temperature if self.sampling else None,
            "samples": self.samples,
        }
        return made | self.run.to_dict()


class BenchmarkScores:
    """Collects the scored runs of a stage."""

    def __init__(self, ctx: StageContext) -> None:
        self._ctx = ctx
        self._judged: dict[str, list[_Scored]] = {}
        self._compared: dict[str, list[dict[str, Any]]] = {}

    def add(
        self, benchmark: str, model: Judge, setting: Setting, log: Path, label: str, tasks: Path
    ) -> dict[str, int]:
        """Score a log by the mean of its samples, and also by their majority if there are several.

        Args:
            benchmark: name of the benchmark.
            model: the judge.
            setting: sampling setting.
            log: file of verdicts.
            label: name of the log on screen.
            tasks: file of `BenchmarkTask`s that the judge was shown.

        Returns:
            Number of verdicts by parse status.
        """
        name = f"{model.name}_{setting.name}"
        sampling, samples = model.drawn(setting)
        run = self._score(benchmark, [log], name, tasks)
        self._keep(_Scored(run, model.name, setting, sampling, samples))
        if samples > 1:
            rules = get_policy(self._ctx.cfg.evaluate.policy, "majority")
            voted = score_log(benchmark, [log], rules, partial=True, name=f"{name}_majority")
            self._keep(_Scored(voted, model.name, setting, sampling, samples))
        self._ctx.console.line(f"  {label}: {_words(run)}")
        return run.result.statuses

    def add_given(self) -> None:
        """Score the recipe's `evaluate.logs`.

        Raises:
            UserError: an entry has no log of any benchmark.
        """
        for name in self._ctx.cfg.evaluate.logs:
            folder, any_log = self._ctx.inputs[f"logs.{name}"], False
            for benchmark in MODULES:
                log = folder / f"{benchmark}.jsonl"
                if log.is_file():
                    run, any_log = self._score(benchmark, [log], name), True
                    self._keep(_Scored(run, name))
                    self._ctx.console.line(f"  {benchmark}, {name}: {_words(run)}")
            if not any_log:
                names = ", ".join(f"{benchmark}.jsonl" for benchmark in MODULES)
                raise UserError(f"evaluate.logs.{name}: {folder} holds none of {names}")

    def scores(self) -> dict[str, Any]:
        """All runs with all figures, and their comparisons with the first model, by benchmark; JSON-ready."""
        return {
            benchmark: {
                "runs": [scored.to_dict() for scored in judged],
                "comparisons": self._comparisons(benchmark),
            }
            for benchmark, judged in self._judged.items()
        }

    def write_tables(self) -> None:
        """Write tables.md and tables.tex: the paper's tables that have a row for one of these runs."""
        if self._judged:
            tables = [table for number in paper_tables.NUMBERS if (table := self._table(number))]
            for suffix, form in (("md", paper_tables.tables_as_markdown), ("tex", paper_tables.as_latex)):
                write_text(self._ctx.work / f"tables.{suffix}", "\n".join(map(form, tables)))

    def report(self) -> dict[str, Any]:
        """The benchmarks' part of report.json: the scores of every run, with intervals, and notes."""
        return {
            benchmark: {
                "scores": list(judged[0].run.result.scores),
                "rows": [
                    {
                        "run": scored.run.name,
                        "sampling": scored.sampling.words() if scored.sampling else None,
                        "truncated": scored.run.result.truncated,
                        "scores": [percent(s) for s in scored.run.result.scores.values()],
                        "judgements": scored.run.result.coverage.judgements,
                        "expected": scored.run.result.coverage.expected,
                    }
                    for scored in judged
                ],
                "notes": _notes([scored.run for scored in judged]),
                "comparisons": self._comparisons(benchmark),
            }
            for benchmark, judged in self._judged.items()
        }

    def _score(self, benchmark: str, files: list[Path], name: str, tasks: Path | None = None) -> ScoredRun:
        wrong = Disagreements()
        policy = self._ctx.cfg.evaluate.policy
        run = score_log(
            benchmark, files, policy, partial=True, details=True, name=name, witnesses=[wrong.add]
        )
        text = page(run, wrong.worst(), read_log(files), tasks)
        target = self._ctx.work / "pages" / benchmark / f"{name}.md"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, text)
        return run

    def _comparisons(self, benchmark: str) -> list[dict[str, Any]]:
        if benchmark not in self._compared:
            self._compared[benchmark] = _compare_all(self._judged[benchmark])
        return self._compared[benchmark]

    def _keep(self, scored: _Scored) -> None:
        self._judged.setdefault(scored.run.benchmark, []).append(scored)

    def _table(self, number: int) -> paper_tables.Table | None:
        """One of the paper's tables; None if no run here belongs into it."""
        runs: dict[str, paper_tables.TableRun] = {}
        for benchmark, judged in self._judged.items():
            for scored in judged:
                name = _row_name(scored)
                run = runs.setdefault(name, paper_tables.TableRun(name, scored.run.scalar, {}))
                scores = {**run.scores, benchmark: scored.run.result.values()}
                missing = {**run.missing, **scored.run.missing}
                runs[name] = paper_tables.TableRun(name, scored.run.scalar, scores, missing)
        table = paper_tables.build_tables(number, list(runs.values()))
        return table if any(row.here for row in table.rows) else None


def _notes(runs: list[ScoredRun]) -> list[str]:
    """The runs' notes without repetition; a note that not all runs share names its runs."""
    whose: dict[str, list[str]] = {}
    for run in runs:
        for note in run.result.notes:
            whose.setdefault(note, []).append(run.name)
    return [
        note if len(names) == len(runs) else f"{', '.join(names)}: {note}" for note, names in whose.items()
    ]


def _row_name(scored: _Scored) -> str:
    if scored.setting is None or scored.sampling is None:
        return scored.model
    words = scored.sampling.words()
    if scored.run.rules.vote == "majority":
        words += f", majority of {scored.samples}"
    return f"{scored.model} ({words})"


def _compare_all(scored: list[_Scored]) -> list[dict[str, Any]]:
    """Compare runs with the first model's at the same setting, and given logs with all of the first's."""
    means = [run for run in scored if run.run.rules.vote == "mean"]
    first = [run for run in means if run.model == means[0].model]
    compared = []
    for run in means:
        for base in first:
            if run.model != base.model and run.setting in (base.setting, None):
                try:
                    compared.append(compare_runs(run.run, base.run).to_dict())
                except UserError:  # a given log with different items
                    continue
    return compared


def _words(run: ScoredRun) -> str:
    shown: list[tuple[str, Accuracy]] = [
        (name, score) for name, score in run.result.scores.items() if score and score.value is not None
    ]
    if shown:
        name, score = shown[-1]
        text = f"{name} {' '.join(percent(score))}"
    else:
        right = sum((row.accuracy.value or 0.0) * row.accuracy.items for row in run.result.subsets)
        share = right / sum(row.accuracy.items for row in run.result.subsets)
        text = f"{100 * share:.2f} % of its items right (no score, subsets are missing)"
    unread = run.result.statuses
    judged = sum(unread.values())
    read = unread.get("ok", 0) + unread.get("tie", 0)
    missing = "".join(f", {words}" for words in run.missing.values())
    cut = run.result.truncated
    missing += f", {100 * cut:.1f} % cut at the limit" if cut else ""
    return f"{text}, {100 * read / judged:.1f} % with a verdict{missing}"

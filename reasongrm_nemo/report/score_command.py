# SPDX-License-Identifier: Apache-2.0
"""The command `reasongrm score`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation.benchmarks import log_name, read_log, score_log
from reasongrm_nemo.evaluation.compare import compare_runs
from reasongrm_nemo.evaluation.policies import get_policy, nearest
from reasongrm_nemo.evaluation.registry import MODULES
from reasongrm_nemo.files.writes import refuse_to_overwrite, write_text
from reasongrm_nemo.report import paper_tables
from reasongrm_nemo.report.page import Disagreements, page
from reasongrm_nemo.report.scores import comparison_lines, run_as_text


@dataclass(frozen=True)
class ScoreOptions:
    """The options of the command, under the same names."""

    policy: str = "paper"
    vote: str = "mean"
    partial: bool = False
    details: bool = False
    compare: Sequence[Path] = ()
    table: str | None = None
    name: str | None = None
    page: Path | None = None
    tasks: Path | None = None
    origin: str | None = None


def benchmark_and_files(words: Sequence[Path], origin: str | None) -> tuple[str, Sequence[Path]]:
    """The benchmark and the files from the command line; with `--from`, the benchmark may be omitted.

    Raises:
        UserError: no file is given, or `--from` names another benchmark.
    """
    if origin is not None and origin not in MODULES:
        raise UserError(f"--from: {origin} is not one of {', '.join(MODULES)}{nearest(origin, MODULES)}")
    first, rest = str(words[0]), words[1:]
    if origin is None or (first in MODULES and rest):
        if origin not in (None, first):
            raise UserError(f"--from {origin} contradicts the benchmark {first}; omit one of them")
        if not rest:
            raise UserError(f"{first}: give a benchmark ({', '.join(MODULES)}) and then its verdict log")
        return first, rest
    return origin, words


def score_command(benchmark: str, files: Sequence[Path], options: ScoreOptions) -> tuple[dict[str, Any], str]:
    """Score a log, with comparisons, table and page as requested.

    Returns:
        The figures, JSON-ready, and the text to print.

    Raises:
        UserError: a name is unknown, or a file is wrong.
    """
    if options.tasks is not None and options.page is None:
        raise UserError("--tasks is only used by --page; give --page FILE too, or omit --tasks")
    if options.page is not None:
        read = (*files, *options.compare, *filter(None, [options.tasks]))
        refuse_to_overwrite(options.page, read, "--page")
    rules = get_policy(options.policy, options.vote)
    wrong = Disagreements()
    run = score_log(
        benchmark,
        files,
        rules,
        options.partial,
        details=options.details or options.page is not None,
        name=options.name,
        witnesses=[wrong.add] if options.page else [],
        project=options.origin,
    )
    others = [
        score_log(benchmark, [file], rules, options.partial, name=name, project=options.origin)
        for file, name in zip(options.compare, _names(options.compare, run.name), strict=True)
    ]
    comparisons = [compare_runs(run, other) for other in others]
    data = run.to_dict()
    if comparisons:
        data["comparisons"] = [item.to_dict() for item in comparisons]
    if options.page is not None:
        options.page.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.page, page(run, wrong.worst(), read_log(files, options.origin), options.tasks))
    if options.table is not None:
        rows = [
            paper_tables.TableRun(item.name, item.scalar, {benchmark: item.result.values()}, item.missing)
            for item in (run, *others)
        ]
        number = paper_tables.OF_BENCHMARK[benchmark]
        if number is None:
            raise UserError(f"--table: the paper has no table of {benchmark}; leave --table out")
        table = paper_tables.build_tables(number, rows)
        return data, paper_tables.FORMATS[options.table](table).rstrip("\n")
    text = run_as_text(run)
    return data, "\n\n".join([text, *("\n".join(comparison_lines(item)) for item in comparisons)])


def _names(files: Sequence[Path], taken: str) -> list[str]:
    """The logs' names, or their paths if names are not unique."""
    names = [log_name(file) for file in files]
    return names if len({taken, *names}) == len(names) + 1 else [str(file) for file in files]

# SPDX-License-Identifier: Apache-2.0
"""Scores a verdict log, or a result file of another project's scripts, on a benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from sys import intern
from typing import Any

from reasongrm_nemo.data.jsonl import placed_records
from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation.details import Details
from reasongrm_nemo.evaluation.foreign_files import is_foreign, result_files
from reasongrm_nemo.evaluation.outcomes import SubsetOutcomes, Witness, collect_outcomes
from reasongrm_nemo.evaluation.policies import Policy, get_policy, nearest
from reasongrm_nemo.evaluation.registry import MODULES, Benchmark
from reasongrm_nemo.evaluation.resample import DRAWS, Elements, bootstrap, interval
from reasongrm_nemo.evaluation.result import Result, truncated
from reasongrm_nemo.files.lines import encodable


@dataclass
class ScoredRun:
    """A scored verdict log.

    `scalar`: whether its first row is from a scalar reward model; `details`: None unless requested.
    """

    name: str
    rules: Policy
    subsets: dict[str, SubsetOutcomes]
    result: Result
    scalar: bool
    details: Details | None = None

    @property
    def benchmark(self) -> str:
        """The benchmark's name."""
        return self.result.benchmark

    @property
    def missing(self) -> dict[str, str]:
        """Benchmark -> number of judgements present, in words; empty if none are missing."""
        missing = self.result.coverage.missing
        return {} if missing is None else {self.benchmark: missing}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the result's fields, the log's name, and the details, if any."""
        more = {} if self.details is None else {"details": self.details.figures()}
        return {"name": self.name, "vote": self.rules.vote, **self.result.to_dict(), **more}


def score_rows(
    benchmark: str,
    name: str,
    rows: Iterable[Verdict],
    policy: str | Policy = "paper",
    partial: bool = False,
    details: bool = False,
    draws: int = DRAWS,
    witnesses: Sequence[Witness] = (),
) -> ScoredRun:
    """Score judgements, with bootstrap intervals.

    Args:
        benchmark: the benchmark's name.
        name: the run's name.
        rows: the judgements.
        policy: the scoring rules.
        partial: accept missing subsets.
        details: also compute `Details`.
        draws: bootstrap draws; 0 keeps the intervals combined from the parts.
        witnesses: called with every judgement.

    Raises:
        UserError: the benchmark or the policy is unknown, or the rows are wrong.
    """
    module, rules = _benchmark(benchmark), get_policy(policy)
    gathered = Details() if details else None
    watching = [*witnesses, *([gathered.add] if gathered else [])]
    rows = iter(rows)
    head = list(islice(rows, 1))
    subsets = collect_outcomes(chain(head, rows), rules, benchmark, watching)
    result = replace(module.result(subsets, rules, partial), truncated=truncated(subsets))
    if draws:
        result = with_bootstrap(result, module.elements(subsets, rules), draws)
    return ScoredRun(name, rules, subsets, result, head[0].chosen_score is not None, gathered)


def with_bootstrap(result: Result, elements: Elements, draws: int) -> Result:
    """The result with bootstrap intervals; a score without variation (all right, all wrong) keeps its own."""
    drawn = bootstrap(elements, draws)
    scores = dict(result.scores)
    for column, name in enumerate(elements.names):
        score, bounds = scores.get(name), interval(drawn[:, column])
        if score is not None and bounds is not None:
            scores[name] = replace(score, low=bounds[0], high=bounds[1], method="bootstrap")
    return replace(result, scores=scores)


def score_log(
    benchmark: str,
    files: Sequence[Path],
    policy: str | Policy = "paper",
    partial: bool = False,
    details: bool = False,
    draws: int = DRAWS,
    name: str | None = None,
    witnesses: Sequence[Witness] = (),
    project: str | None = None,
) -> ScoredRun:
    """`score_rows` for the files of a verdict log; the default name is the first file's.

    `project` names the benchmark whose scripts wrote those files that are not verdict logs.

    Raises:
        UserError: as for `score_rows`, or two rows are the same sample of a judgement.
    """
    _benchmark(benchmark)
    get_policy(policy)
    rows = read_log(files, project)
    name = encodable(name or log_name(files[0]))  # a path may contain bytes that are not UTF-8
    reread = Reread()
    watching = [*witnesses, reread.add] if project else witnesses
    try:
        run = score_rows(benchmark, name, rows, policy, partial, details, draws, watching)
        run.result.notes.extend(reread.notes())
        return run
    except UserError as error:
        named = any(str(error).startswith((f"{file}:", f"{file}[")) for file in files)
        raise error if named else UserError(f"{', '.join(map(str, files))}: {error}") from None


class Reread:
    """A `Witness` that counts texts scored differently by the policy than recorded by their script."""

    def __init__(self) -> None:
        self._texts = self._different = 0

    def add(self, verdict: Verdict, credit: float, right: bool, status: str) -> None:
        """Count one judgement."""
        if verdict.text:
            self._texts += 1
            self._different += right != verdict.correct

    def notes(self) -> list[str]:
        """A note, if there are any."""
        if not self._different:
            return []
        return [
            f"{self._different:,} of {self._texts:,} texts are scored differently by this policy than "
            "recorded by their script"
        ]


def read_log(files: Sequence[Path], project: str | None = None) -> Iterator[Verdict]:
    """The judgements of a log's shards; a repeated sample of a judgement is an error.

    Rows of a pair are averaged, so a second run or a shard given twice would change the scores unnoticed.
    """
    seen: set[tuple[str, str, str | None, str | None, int]] = set()
    for where, row in chain.from_iterable(_rows(file, project) for file in files):
        for name in ("sample", "tokens", "prompt_tokens"):
            if (getattr(row, name) or 0) < 0:
                raise UserError(
                    f"{where}: {name} is {getattr(row, name)}; it cannot be below 0, restore the log"
                )
        if row.sample is not None:
            key = (intern(row.subset), row.item_id, row.cell, row.order and intern(row.order), row.sample)
            if key in seen:
                cell = "" if row.cell is None else f", cell {row.cell}"
                raise UserError(
                    f"{where}: sample {row.sample} of item '{row.item_id}' of '{row.subset}'{cell}, "
                    f"{row.order or 'in unknown order'}, is repeated; "
                    "give each shard of one run once, and another run with --compare"
                )
            seen.add(key)
        yield row


def _rows(file: Path, project: str | None) -> Iterator[tuple[str, Verdict]]:
    """Place and judgement of each row of one file."""
    if not is_foreign(file):
        yield from placed_records(file, Verdict)
    elif project is None:
        raise UserError(
            f"{file}: this is not a verdict log; to read results of the scripts of RewardBench, RM-Bench, "
            f"RMB or RM-R1, give --from {', --from '.join(MODULES)}"
        )
    else:
        for part in result_files(file):
            for row in MODULES[project].read_results(part):
                yield str(file), row


def log_name(file: Path) -> str:
    """A run's name, from its log's file name."""
    return file.name.split(".json")[0]


def _benchmark(name: str) -> Benchmark:
    if name not in MODULES:
        hint = nearest(name, MODULES)
        raise UserError(f"unknown benchmark '{name}'{hint}; known are {', '.join(MODULES)}")
    return MODULES[name]

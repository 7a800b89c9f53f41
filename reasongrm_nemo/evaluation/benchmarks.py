# SPDX-License-Identifier: Apache-2.0
"""A verdict log, or a result file of another project's scripts, scored by one of the benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from sys import intern
from typing import Any

from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation.details import Details
from reasongrm_nemo.evaluation.foreign_files import is_foreign, result_files
from reasongrm_nemo.evaluation.outcomes import SubsetOutcomes, Witness, collect_outcomes
from reasongrm_nemo.evaluation.policies import Policy, get_policy, nearest
from reasongrm_nemo.evaluation.registry import MODULES, Benchmark
from reasongrm_nemo.evaluation.resample import DRAWS, Elements, bootstrap, interval
from reasongrm_nemo.evaluation.result import Result, truncated
from reasongrm_nemo.files.lines import encodable, read_dicts


@dataclass
class ScoredRun:
    """A scored verdict log.

    `scalar` says whether its first row is a scalar reward model's; `details` is None unless asked for.
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
        """The benchmark, and how many of its judgements are there; empty when all are."""
        missing = self.result.coverage.missing
        return {} if missing is None else {self.benchmark: missing}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the result's fields, the log's name, and the details if there are any."""
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
    """Score judgements, the scores' intervals by the bootstrap.

    Args:
        benchmark: its name.
        name: the run's.
        rows: the judgements.
        policy: the rules.
        partial: score what is there.
        details: also gather what `Details` says.
        draws: of the bootstrap; 0: intervals stay the combined ones of the parts.
        witnesses: shown every judgement.

    Raises:
        UserError: the benchmark or the policy is unknown, or the rows are at fault.
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
    """The result with resampled intervals; one that does not vary (all right, all wrong) keeps its own."""
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
    """`score_rows` of a verdict log, whole or in shards; its name is the first file's unless given.

    `project` says whose scripts wrote those of the files that are no verdict log (its benchmark's name).

    Raises:
        UserError: as `score_rows`; or two rows are the same sample of a judgement.
    """
    _benchmark(benchmark)
    get_policy(policy)
    rows = read_log(files, project)
    name = encodable(name or log_name(files[0]))  # a path may hold bytes that are no UTF-8
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
    """A `Witness` that counts the texts which the policy reads otherwise than their script recorded."""

    def __init__(self) -> None:
        self._texts = self._otherwise = 0

    def add(self, verdict: Verdict, credit: float, right: bool, status: str) -> None:
        """One judgement."""
        if verdict.text:
            self._texts += 1
            self._otherwise += right != verdict.correct

    def notes(self) -> list[str]:
        """A note where any is read otherwise."""
        if not self._otherwise:
            return []
        return [
            f"{self._otherwise:,} of {self._texts:,} texts count otherwise under this policy than their "
            "script recorded"
        ]


def read_log(files: Sequence[Path], project: str | None = None) -> Iterator[Verdict]:
    """The judgements of a log's shards; one that names its sample must not be there again.

    Rows of a pair are averaged, so another run or a shard given twice would go into the scores unseen.
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
                    f"{row.order or 'in whatever order'}, was there before; "
                    "give each shard of one run once, and another run by --compare"
                )
            seen.add(key)
        yield row


def _rows(file: Path, project: str | None) -> Iterator[tuple[str, Verdict]]:
    """Place and judgement of each row of one file."""
    if not is_foreign(file):
        for where, data in read_dicts(file):
            yield where, Verdict.from_dict(data, where)
    elif project is None:
        raise UserError(
            f"{file}: this is no verdict log; what the scripts of RewardBench, RM-Bench, RMB or RM-R1 wrote "
            f"is read with --from {', --from '.join(MODULES)}"
        )
    else:
        for part in result_files(file):
            for row in MODULES[project].read_results(part):
                yield str(file), row


def log_name(file: Path) -> str:
    """A run's name, from its log's."""
    return file.name.split(".json")[0]


def _benchmark(name: str) -> Benchmark:
    if name not in MODULES:
        hint = nearest(name, MODULES)
        raise UserError(f"unknown benchmark '{name}'{hint}; known are {', '.join(MODULES)}")
    return MODULES[name]

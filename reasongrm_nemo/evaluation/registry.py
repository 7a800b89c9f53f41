# SPDX-License-Identifier: Apache-2.0
"""The benchmarks by name: a further one is a module like these and a line in `MODULES`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.evaluation import rewardbench, rm_bench, rmb
from reasongrm_nemo.evaluation.outcomes import SubsetOutcomes
from reasongrm_nemo.evaluation.policies import Policy
from reasongrm_nemo.evaluation.resample import Elements
from reasongrm_nemo.evaluation.result import Result


class Benchmark(Protocol):
    """What the module of a benchmark offers."""

    BENCHMARK: str
    """Its name in recipes, logs and commands."""
    TITLE: str
    """Its name in tables."""
    PAPER_TABLE: int
    """The paper's table with all its scores."""

    def own_files(self, files: Sequence[Path]) -> list[Path]:
        """Of a folder's files the benchmark's as published; none: all are read."""

    def subset_and_id(self, row: dict[str, Any], file: Path, where: str) -> tuple[str, Any]:
        """The subset of a published row, and what tells it from others there.

        Raises:
            WrongForm: the row is no item of the benchmark.
            UserError: the benchmark has no such subset, or row and file say two things.
        """

    def cells_of(self, subset: str, row: dict[str, Any]) -> list[str | None]:
        """The cells of the pairs that a published row offers, in their order; WrongForm as above."""

    def read_results(self, file: Path) -> Iterator[Verdict]:
        """The judgements in a result file of the benchmark's scripts, or of RM-R1's."""

    def result(self, subsets: Mapping[str, SubsetOutcomes], rules: Policy, partial: bool = False) -> Result:
        """The scores of collected outcomes."""

    def elements(self, subsets: Mapping[str, SubsetOutcomes], rules: Policy) -> Elements:
        """What resampling needs."""


MODULES: dict[str, Benchmark] = {module.BENCHMARK: module for module in (rewardbench, rm_bench, rmb)}

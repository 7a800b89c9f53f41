# SPDX-License-Identifier: Apache-2.0
"""The benchmarks by name. To add one, write a module like these and add a line to `MODULES`."""

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
    """The interface of a benchmark's module."""

    BENCHMARK: str
    """The name in recipes, logs and commands."""
    TITLE: str
    """The name in tables."""
    PAPER_TABLE: int | None
    """The number of the paper's table with all scores; None where it has none."""

    def own_files(self, files: Sequence[Path]) -> list[Path]:
        """The benchmark's published files among a folder's; if none, all files are read."""

    def subset_and_id(self, row: dict[str, Any], file: Path, where: str) -> tuple[str, Any]:
        """The subset of a published row, and the row's id in the subset.

        Raises:
            WrongForm: the row is not an item of the benchmark.
            UserError: the benchmark lacks the subset, or row and file name different ones.
        """

    def cells_of(self, subset: str, row: dict[str, Any]) -> list[str | None]:
        """The cells of the pairs in a published row, in order; raises WrongForm as above."""

    def read_results(self, file: Path) -> Iterator[Verdict]:
        """The judgements in a result file of the benchmark's scripts, or of RM-R1's."""

    def result(self, subsets: Mapping[str, SubsetOutcomes], rules: Policy, partial: bool = False) -> Result:
        """The scores of collected outcomes."""

    def elements(self, subsets: Mapping[str, SubsetOutcomes], rules: Policy) -> Elements:
        """The input of the bootstrap."""


MODULES: dict[str, Benchmark] = {module.BENCHMARK: module for module in (rewardbench, rm_bench, rmb)}

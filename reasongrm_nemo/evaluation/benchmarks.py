# SPDX-License-Identifier: Apache-2.0
"""The benchmarks by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path

from reasongrm_nemo.data.jsonl import read_jsonl
from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation import rewardbench, rm_bench, rmb
from reasongrm_nemo.evaluation.policies import get_policy, nearest
from reasongrm_nemo.evaluation.result import Result

BENCHMARKS: dict[str, Callable[[Iterable[Verdict], str, bool], Result]] = {
    rewardbench.BENCHMARK: rewardbench.evaluate,
    rm_bench.BENCHMARK: rm_bench.evaluate,
    rmb.BENCHMARK: rmb.evaluate,
}


def score_files(
    benchmark: str, files: Sequence[Path], policy: str = "paper", partial: bool = False
) -> Result:
    """Score a verdict log, whole or in shards.

    Raises:
        UserError: the benchmark or the policy is unknown, or the log is at fault.
    """
    if benchmark not in BENCHMARKS:
        hint = nearest(benchmark, BENCHMARKS)
        raise UserError(f"unknown benchmark '{benchmark}'{hint}; known are {', '.join(BENCHMARKS)}")
    get_policy(policy)
    rows = chain.from_iterable(read_jsonl(file, Verdict) for file in files)
    try:
        return BENCHMARKS[benchmark](rows, policy, partial)
    except UserError as error:
        named = any(str(error).startswith(f"{file}:") for file in files)
        raise error if named else UserError(f"{', '.join(map(str, files))}: {error}") from None

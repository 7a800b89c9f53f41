# SPDX-License-Identifier: Apache-2.0
"""R*: scoring reasoning paths and selecting among them (section 3.3)."""

from reasongrm_nemo.rstar.report import count_hesitations, selection_report
from reasongrm_nemo.rstar.score import PathSums, RStar, path_sums, score_path, score_sums
from reasongrm_nemo.rstar.select import STRATEGIES, ineligible, select_paths, to_sft_example

__all__ = [
    "STRATEGIES",
    "PathSums",
    "RStar",
    "count_hesitations",
    "ineligible",
    "path_sums",
    "score_path",
    "score_sums",
    "select_paths",
    "selection_report",
    "to_sft_example",
]

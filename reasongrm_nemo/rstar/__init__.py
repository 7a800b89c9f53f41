# SPDX-License-Identifier: Apache-2.0
"""R*: scoring reasoning paths and selecting among them (section 3.3)."""

from reasongrm_nemo.rstar.report import Report, count_hesitations, selection_report
from reasongrm_nemo.rstar.score import PathSums, RStar, path_sums, score_path, score_sums
from reasongrm_nemo.rstar.select import STRATEGIES, Floors, Selector, ineligible, select_paths, to_sft_example
from reasongrm_nemo.rstar.side_by_side import side_by_side

__all__ = [
    "STRATEGIES",
    "Floors",
    "PathSums",
    "RStar",
    "Report",
    "Selector",
    "count_hesitations",
    "ineligible",
    "path_sums",
    "score_path",
    "score_sums",
    "select_paths",
    "selection_report",
    "side_by_side",
    "to_sft_example",
]

# SPDX-License-Identifier: Apache-2.0
"""R*: scores reasoning paths and selects among them (section 3.3)."""

from reasongrm_nemo.rstar.hesitation import HesitationCounter, count_hesitations
from reasongrm_nemo.rstar.report import Report, selection_report
from reasongrm_nemo.rstar.score import PathSums, RStar, path_sums, score_path, score_sums
from reasongrm_nemo.rstar.select import STRATEGIES, Floors, Selector, ineligible, select_paths, to_sft_example
from reasongrm_nemo.rstar.side_by_side import side_by_side
from reasongrm_nemo.rstar.table import PathTable, TableBuilder

__all__ = [
    "STRATEGIES",
    "Floors",
    "HesitationCounter",
    "PathSums",
    "PathTable",
    "RStar",
    "Report",
    "Selector",
    "TableBuilder",
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

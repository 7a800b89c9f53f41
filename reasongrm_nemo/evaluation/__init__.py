# SPDX-License-Identifier: Apache-2.0
"""Scores judgements on benchmarks."""

from reasongrm_nemo.evaluation.accuracy import Accuracy, accuracy, combine, summarize_verdicts, wilson
from reasongrm_nemo.evaluation.policies import SCORING_RULES, Policy, get_policy
from reasongrm_nemo.evaluation.result import Result, SubsetResult

__all__ = [
    "SCORING_RULES",
    "Accuracy",
    "Policy",
    "Result",
    "SubsetResult",
    "accuracy",
    "combine",
    "get_policy",
    "summarize_verdicts",
    "wilson",
]

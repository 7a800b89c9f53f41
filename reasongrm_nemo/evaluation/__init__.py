# SPDX-License-Identifier: Apache-2.0
"""Scoring judgements."""

from reasongrm_nemo.evaluation.accuracy import Accuracy, accuracy, summarize_verdicts, wilson

__all__ = ["Accuracy", "accuracy", "summarize_verdicts", "wilson"]

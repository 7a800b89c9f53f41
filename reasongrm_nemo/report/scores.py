# SPDX-License-Identifier: Apache-2.0
"""The tables of a scored benchmark."""

from __future__ import annotations

from reasongrm_nemo.evaluation.accuracy import Accuracy
from reasongrm_nemo.evaluation.result import Result
from reasongrm_nemo.report.summary import aligned


def as_text(result: Result) -> str:
    """Scores and subsets with their intervals, and what became of the judgements."""
    scores = [[name, *_figures(score)] for name, score in result.scores.items()]
    subsets = [
        [
            row.name,
            *_figures(row.accuracy),
            str(row.accuracy.items),
            str(row.expected_items),
            str(row.judgements),
            str(row.unparsable),
            str(row.ties),
        ]
        for row in result.subsets
    ]
    columns = ["subset", "%", "95 % interval", "items", "published", "judgements", "unparsable", "ties"]
    judged = ", ".join(f"{count} {status}" for status, count in result.statuses.items())
    return "\n".join(
        [
            f"{result.benchmark}, policy {result.policy}",
            "",
            *aligned(["score", "%", "95 % interval"], scores),
            "",
            *aligned(columns, subsets),
            "",
            f"judgements: {judged}",
            *(f"note: {note}" for note in result.notes),
        ]
    )


def _figures(score: Accuracy | None) -> list[str]:
    if score is None or score.value is None:
        return ["–", "–"]
    return [f"{100 * score.value:.2f}", f"[{100 * score.low:.2f}, {100 * score.high:.2f}]"]

# SPDX-License-Identifier: Apache-2.0
"""Tables of a scored benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reasongrm_nemo.evaluation.accuracy import Accuracy
from reasongrm_nemo.evaluation.benchmarks import ScoredRun
from reasongrm_nemo.evaluation.compare import Comparison
from reasongrm_nemo.evaluation.result import Result
from reasongrm_nemo.run.text import aligned


def scores_as_text(result: Result) -> str:
    """Scores and subsets with their intervals, and the counts of parse statuses."""
    scores = [[name, *percent(score)] for name, score in result.scores.items()]
    subsets = [
        [
            row.name,
            *percent(row.accuracy),
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
            f"judgements: {judged}{_truncated_words(result)}",
            *(f"note: {note}" for note in result.notes),
        ]
    )


def _truncated_words(result: Result) -> str:
    return "" if result.truncated is None else f"; {100 * result.truncated:.2f} % cut at the token limit"


def run_as_text(run: ScoredRun) -> str:
    """`scores_as_text`, with the run's details, if any."""
    details = [] if run.details is None else ["", *details_lines(run.details.figures())]
    return "\n".join([scores_as_text(run.result), *details])


def details_lines(figures: Mapping[str, Any]) -> list[str]:
    """`Details.figures` as lines; unknown figures are omitted."""
    positions, lengths, cost = figures["positions"], figures["length_bias"], figures["cost"]
    both = positions["both"]
    rows = [
        ("verdicts for the answer shown first", positions["position_a"]),
        ("accuracy, chosen answer shown first", positions["chosen_first"]),
        ("accuracy, chosen answer shown second", positions["rejected_first"]),
        ("same answer preferred in both orders", both["consistent"]),
        ("  first position in both", both["always_first"]),
        ("  second position in both", both["always_second"]),
        ("  no verdict in one or both", both["unread"]),
        ("verdicts for the longer answer", lengths["prefers_longer"]),
        ("  share in which it was chosen", lengths["chosen_longer"]),
        ("accuracy, chosen answer longer", lengths["longer"]),
        ("accuracy, chosen answer shorter", lengths["shorter"]),
        *((f"accuracy, {turns} turn{'s' * (turns != '1')}", a) for turns, a in figures["by_turns"].items()),
        *(
            (f"accuracy, responses of {bin_['from']} to {bin_['to']} tokens", bin_["accuracy"])
            for bin_ in figures["by_tokens"]
        ),
    ]
    shown = [
        [name, *percent(Accuracy(**figure)), str(figure["judgements"]), str(figure["items"])]
        for name, figure in rows
        if figure["value"] is not None
    ]
    lines = aligned(["", "%", "95 % interval", "judgements", "clusters"], shown) if shown else []
    if cost["response_tokens"]:
        words = (
            f"tokens: {cost['response_tokens']:,} in responses, mean {cost['response_mean']:.1f} (median "
            f"{cost['response_median']:.0f}, 95 % below {cost['response_q0.95']:.0f})"
        )
        if cost["response_tokens_per_right"] is not None:
            words += f", {cost['response_tokens_per_right']:.1f} per right judgement"
        if cost["prompt_tokens"] is not None:
            words += f"; {cost['prompt_tokens']:,} in prompts"
        lines += ["", words]
    return lines


def comparison_lines(comparison: Comparison) -> list[str]:
    """A comparison of two runs as lines."""
    test = comparison.mcnemar
    rows = [
        [
            name,
            f"{100 * (difference['difference'] or 0.0):+.2f}",
            _signed(difference["low"], difference["high"]),
        ]
        for name, difference in comparison.differences.items()
    ]
    left = f"; {comparison.left_out} judged by only one are left out" if comparison.left_out else ""
    return [
        f"{comparison.first} against {comparison.second}, {comparison.pairs} pairs judged by both{left}",
        "",
        *aligned(["score", "difference", "95 % interval"], rows),
        "",
        f"right: both {comparison.both}, only {comparison.first} {test.only_first}, only {comparison.second} "
        f"{test.only_second}, neither {comparison.neither}; McNemar's test p = {test.exact:.3g} (mid-p "
        f"{test.mid_p:.3g})",
        # the first run's notes are shown with its scores
        *(f"note: {comparison.second}: {note}" for note in comparison.notes.get(comparison.second, [])),
    ]


def percent(score: Accuracy | None) -> list[str]:
    """A share and its interval in %."""
    if score is None or score.value is None:
        return ["–", "–"]
    return [f"{100 * score.value:.2f}", f"[{100 * score.low:.2f}, {100 * score.high:.2f}]"]


def _signed(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"[{100 * low:+.2f}, {100 * high:+.2f}]"

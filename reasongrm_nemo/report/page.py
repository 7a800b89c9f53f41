# SPDX-License-Identifier: Apache-2.0
"""Writes a page on a run on a benchmark: figures, confusion by subset, worst disagreements."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reasongrm_nemo.data.jsonl import read_jsonl
from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.evaluation.benchmarks import ScoredRun
from reasongrm_nemo.evaluation.details import VERDICTS
from reasongrm_nemo.evaluation.tasks import BenchmarkTask
from reasongrm_nemo.files.lines import encodable
from reasongrm_nemo.report.scores import details_lines, percent
from reasongrm_nemo.run.text import markdown, markdown_table, printable

WORST = 10
MAX_CHARS = 3000
"""Longest text shown in full; a longer one is shown by its two ends."""

Pair = tuple[str, str, str | None]


class Disagreements:
    """A `Witness` that counts wrong verdicts by pair."""

    def __init__(self) -> None:
        self._pairs: dict[Pair, list[int]] = {}

    def add(self, verdict: Verdict, credit: float, right: bool, status: str) -> None:
        """Count one judgement."""
        counts = self._pairs.setdefault((verdict.subset, verdict.item_id, verdict.cell), [0, 0])
        counts[0] += status == "ok" and not right
        counts[1] += 1

    def worst(self, count: int = WORST) -> list[Pair]:
        """The pairs most consistently judged wrong; ties go to more judgements, then to a seeded draw."""

        def place(entry: tuple[Pair, list[int]]) -> tuple[float, int, int]:
            pair, (wrong, judgements) = entry
            return -wrong / judgements, -judgements, derive_seed(0, "page", "/".join(map(str, pair)))

        wrong = [entry for entry in self._pairs.items() if entry[1][0]]
        return [pair for pair, _ in sorted(wrong, key=place)[:count]]


def page(
    run: ScoredRun, worst: Sequence[Pair], judgements: Iterable[Verdict], tasks: Path | None = None
) -> str:
    """The page as Markdown.

    Args:
        run: scored with details.
        worst: pairs to show, from `Disagreements.worst`.
        judgements: the log's judgements again, for the judge's texts.
        tasks: the file of `BenchmarkTask`, to show the prompts; None: omit them.

    Raises:
        UserError: a file cannot be read.
    """
    if run.details is None:
        raise ValueError("A page needs a run that was scored with details")
    lines = [
        f"# {markdown(run.benchmark)}: {markdown(run.name)}",
        "",
        f"Policy {run.rules.name}, {run.rules.vote} of samples.",
        "",
    ]
    scores = [[name, *percent(score)] for name, score in run.result.scores.items()]
    lines += markdown_table(["score", "%", "95 % interval"], scores)
    lines += [f"\nNote: {markdown(note)}." for note in run.result.notes]
    lines += ["", "## Confusion", ""]
    lines += ["Number of judgements by right answer → verdict.", ""]
    head = ["subset", "%", *(f"{label} → {name}" for label in "AB" for name in VERDICTS)]
    confusion = run.details.confusion()
    rows = [
        [row.name, percent(row.accuracy)[0], *map(str, confusion[row.name].values())]
        for row in run.result.subsets
    ]
    lines += markdown_table(head, rows)
    lines += ["", "## Positions, lengths, cost", "", "```", *details_lines(run.details.figures()), "```", ""]
    lines += ["## Worst disagreements", ""]
    shown = _shown(tasks, worst) if tasks is not None else {}
    judged = _judged(judgements, worst)
    for pair in worst:
        subset, item, cell = pair
        where = f"{subset}, item {item}" + (f", cell {cell}" if cell is not None else "")
        lines += [f"### {markdown(where)}", ""]
        for verdict in judged[pair]:
            if verdict.order is None:
                lines += ["The log records only that the judgement is wrong.", ""]
                continue
            label = "A" if verdict.order == "chosen_first" else "B"
            outcome = verdict.verdict or verdict.parse_status
            lines += [
                f"The right answer is {label}, the verdict {markdown(outcome)} ({verdict.tokens} tokens):",
                "",
            ]
            if (pair, verdict.order) in shown:
                lines += ["Shown:", "", *_fenced(shown[pair, verdict.order]), ""]
            lines += ["Judged:", "", *_fenced(_judgement(verdict)), ""]
    return encodable("\n".join(lines).rstrip() + "\n")


def _judged(judgements: Iterable[Verdict], worst: Sequence[Pair]) -> dict[Pair, list[Verdict]]:
    """The log's first judgement of each pair in each order."""
    verdicts: dict[Pair, list[Verdict]] = {pair: [] for pair in worst}
    for verdict in judgements:
        kept = verdicts.get((verdict.subset, verdict.item_id, verdict.cell))
        if kept is not None and all(other.order != verdict.order for other in kept):
            kept.append(verdict)
    return verdicts


def _shown(tasks: Path, worst: Sequence[Pair]) -> Mapping[tuple[Pair, str], str]:
    wanted = set(worst)
    prompts: dict[tuple[Pair, str], str] = {}
    for task in read_jsonl(tasks, BenchmarkTask):
        pair = (task.subset, task.item_id, task.cell)
        if pair in wanted:
            text = "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in task.messages)
            prompts[pair, task.order] = text
    return prompts


def _judgement(verdict: Verdict) -> str:
    if verdict.chosen_score is not None:
        return f"chosen {verdict.chosen_score}, rejected {verdict.rejected_score}"
    return verdict.text


def _fenced(text: str) -> list[str]:
    """A text in a code fence longer than any fence in the text; unprintable characters are escaped."""
    text = printable(text, keep="\n\t")
    if len(text) > MAX_CHARS:
        cut = len(text) - MAX_CHARS
        text = f"{text[: MAX_CHARS // 2]}\n[… {cut} characters omitted …]\n{text[-MAX_CHARS // 2 :]}"
    longest: Any = max((len(run) for run in re.findall("`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return [f"{fence}text", text, fence]

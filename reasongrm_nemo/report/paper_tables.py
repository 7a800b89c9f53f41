# SPDX-License-Identifier: Apache-2.0
"""The paper's tables with our runs added to the published rows, as Markdown and LaTeX.

As in the paper, the best value of a column is bold and the second best underlined. Our runs have a dagger,
and a double dagger if their logs are incomplete.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import yaml

from reasongrm_nemo.evaluation.registry import MODULES
from reasongrm_nemo.run.text import latex, markdown

KINDS = {"scalar": "Scalar reward models", "generative": "Generative reward models"}
DAGGER, DOUBLE_DAGGER = "†", "‡"
BENCHMARK_NAMES = {name: module.TITLE for name, module in MODULES.items()}
OF_BENCHMARK = {name: module.PAPER_TABLE for name, module in MODULES.items()}
"""The table with all scores of each benchmark."""
NUMBERS = (1, 2, 3, 4, 5, 6)


@dataclass(frozen=True)
class TableRun:
    """One of our runs.

    `scores`: benchmark -> score -> value in [0, 1], without unknown ones.  `missing`: benchmark -> how much
    of an incomplete log is present ("812 of 2,985 judgements").
    """

    name: str
    scalar: bool
    scores: Mapping[str, Mapping[str, float]]
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A row of a table: values in % (None: unknown), and notes on incomplete benchmarks."""

    name: str
    kind: str
    values: tuple[float | None, ...]
    here: bool
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """One of the paper's tables with our runs."""

    number: int
    caption: str
    head: list[str]
    rows: list[Row]
    digits: int


@functools.cache
def published() -> dict[str, Any]:
    """The published tables from published.yaml."""
    text = resources.files("reasongrm_nemo.report").joinpath("published.yaml").read_text("utf-8")
    return yaml.safe_load(text)  # type: ignore[no-any-return]


def build_tables(number: int, runs: Sequence[TableRun]) -> Table:
    """A table with our runs that have any value for it, below the published rows of the same kind.

    Args:
        number: the paper's table, 1 to 6.
        runs: our runs.
    """
    data = published()["tables"][number]
    columns = [(benchmark, score) for _, benchmark, score in data["columns"]]
    rows = []
    for kind in KINDS:
        for name, *values in data.get(kind, []):
            rows.append(Row(name, kind, tuple(values), here=False))
        for run in runs:
            values = _values(columns, run)
            if run.scalar == (kind == "scalar") and any(value is not None for value in values):
                missing = tuple(
                    f"{BENCHMARK_NAMES[name]} {run.missing[name]}"
                    for name in BENCHMARK_NAMES
                    if name in run.missing and any(benchmark == name for benchmark, _ in columns)
                )
                rows.append(Row(run.name, kind, values, True, missing))
    digits = 2 if number in (2, 3) else 1
    return Table(number, data["caption"], [head for head, _, _ in data["columns"]], rows, digits)


def _values(columns: Sequence[tuple[str | None, str | None]], run: TableRun) -> tuple[float | None, ...]:
    values = [
        None if benchmark is None or score is None else run.scores.get(benchmark, {}).get(score)
        for benchmark, score in columns
    ]
    if columns[-1][0] is None:  # the average of the other columns, if all are known
        known = [value for value in values[:-1] if value is not None]
        values[-1] = sum(known) / len(known) if len(known) == len(values) - 1 else None
    return tuple(None if value is None else 100 * value for value in values)


def _ranks(table: Table) -> dict[tuple[int, int], int]:
    """(row, column) -> 1 for the best value of a column as shown, 2 for the second best."""
    ranks = {}
    for column in range(len(table.head)):
        shown = [
            (round(value, table.digits), number)
            for number, row in enumerate(table.rows)
            if (value := row.values[column]) is not None
        ]
        for rank, best in enumerate(sorted({value for value, _ in shown}, reverse=True)[:2], start=1):
            ranks.update({(number, column): rank for value, number in shown if value == best})
    return ranks


def _cells(table: Table, bold: str, underlined: str) -> list[list[str]]:
    ranks = _ranks(table)
    form = {1: bold, 2: underlined}
    return [
        [
            "–" if value is None else form.get(ranks.get((i, j), 0), "{}").format(f"{value:.{table.digits}f}")
            for j, value in enumerate(row.values)
        ]
        for i, row in enumerate(table.rows)
    ]


def _footnote(table: Table, escape: Callable[[str], str]) -> str:
    text = f"{table.caption} (the paper's Table {table.number}, in %)."
    if any(row.here for row in table.rows):
        text += f" {DAGGER}: our run."
    lacking = [f"{escape(row.name)}: {', '.join(row.missing)}" for row in table.rows if row.missing]
    if lacking:
        text += f" {DOUBLE_DAGGER}: incomplete ({'; '.join(lacking)})."
    return text


def _headed(table: Table) -> bool:
    """Whether the table has both scalar and generative models, under separate headings."""
    return len({row.kind for row in table.rows}) > 1


def tables_as_markdown(table: Table) -> str:
    """The table in Markdown."""
    lines = [_footnote(table, markdown), "", "| " + " | ".join(["model", *table.head]) + " |"]
    lines.append("|---|" + "--:|" * len(table.head))
    kind = ""
    for row, cells in zip(table.rows, _cells(table, "**{}**", "<u>{}</u>"), strict=True):
        if _headed(table) and row.kind != kind:
            lines.append(f"| *{KINDS[row.kind]}* |" + " |" * len(table.head))
        kind = row.kind
        marks = DAGGER * row.here + DOUBLE_DAGGER * bool(row.missing)
        name = f"{markdown(row.name)} {marks}".rstrip()
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines) + "\n"


def as_latex(table: Table) -> str:
    """The table in LaTeX (package booktabs)."""
    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * len(table.head)}}}", r"\toprule"]
    lines += [" & ".join(["Models", *map(latex, table.head)]) + r" \\", r"\midrule"]
    kind = ""
    for row, cells in zip(table.rows, _cells(table, r"\textbf{{{}}}", r"\underline{{{}}}"), strict=True):
        if _headed(table) and row.kind != kind:
            lines += [r"\midrule"] * bool(kind)
            lines.append(rf"\multicolumn{{{len(table.head) + 1}}}{{l}}{{\textit{{{KINDS[row.kind]}}}}} \\")
        kind = row.kind
        name = latex(row.name) + _latex_marks(row)
        lines.append(" & ".join([name, *("--" if cell == "–" else cell for cell in cells)]) + r" \\")
    caption = latex(_footnote(table, str))
    caption = caption.replace(DAGGER, r"$\dagger$").replace(DOUBLE_DAGGER, r"$\ddagger$")
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _latex_marks(row: Row) -> str:
    if row.missing:
        return r"$^{\dagger\ddagger}$"
    return r"$^\dagger$" if row.here else ""


FORMATS = {"markdown": tables_as_markdown, "latex": as_latex}

# SPDX-License-Identifier: Apache-2.0
"""RM-Bench: nine pairs per prompt, three styles of the chosen answer against three of the rejected one.

The styles are concise, detailed plain, detailed markdown. In the 3 × 3 matrix, rows are the chosen answer's
style and columns the rejected one's: above the diagonal the chosen answer is the plainer one (hard), below it
the fancier one (easy). Source: RM-Bench at 73c52d7b, `scripts/utils.py:34-106`. Published files:
`total_dataset.json`, whose rows name their `domain`, or `<subset>_filtered.json`; a row has three `chosen`
and three `rejected` answers.

RM-R1's script (`eval/RM-Bench/scripts/process_final_result.py:25-32` at d4c2542f) reads its third result file
twice and its second never, so three cells of its matrix hold the verdicts of three others, and "hard" has an
easy cell. Policy `rm_r1` reproduces this for comparison with RM-R1's published figures only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation.accuracy import Accuracy, accuracy
from reasongrm_nemo.evaluation.coverage import coverage
from reasongrm_nemo.evaluation.foreign_files import ItemNames, id_of, result_rows, subset_of, texts_id
from reasongrm_nemo.evaluation.foreign_matrix import matrix_cells, styled
from reasongrm_nemo.evaluation.foreign_row import verdict
from reasongrm_nemo.evaluation.items import WrongForm, known_subset, stem
from reasongrm_nemo.evaluation.outcomes import PairOutcome, SubsetOutcomes, check_cells, check_subsets
from reasongrm_nemo.evaluation.policies import Policy
from reasongrm_nemo.evaluation.resample import Elements
from reasongrm_nemo.evaluation.result import Result, SubsetResult, mean, notes, statuses

BENCHMARK, TITLE, PAPER_TABLE = "rm_bench", "RM-Bench", 5

ITEMS = {"chat": 129, "math": 529, "code": 228, "safety-refuse": 284, "safety-response": 157}
"""Number of prompts by subset; 1,327 in all.  A domain pools the subsets whose names begin with its name."""

DOMAINS = ("chat", "math", "code", "safety")
STYLES = range(3)
DIFFICULTIES = {
    "easy": [f"{i}-{j}" for i in STYLES for j in STYLES if i > j],
    "normal": [f"{i}-{i}" for i in STYLES],
    "hard": [f"{i}-{j}" for i in STYLES for j in STYLES if i < j],
}
CELLS = frozenset(cell for cells in DIFFICULTIES.values() for cell in cells)

RELEASED_READS = {"0-1": "0-2", "1-2": "1-0", "2-0": "2-1"}
"""The cells that RM-R1's script fills wrongly, and the cells whose verdicts it takes."""

_ROTATED = re.compile(r"total_dataset_\d")
_DOMAIN = re.compile(rf"({'|'.join(ITEMS)})_filtered")


def own_files(files: Sequence[Path]) -> list[Path]:
    """The file of the whole data set, or those of the subsets."""
    whole = [file for file in files if stem(file) == "total_dataset"]
    return whole or [file for file in files if stem(file).removesuffix("_filtered") in ITEMS]


def subset_and_id(row: dict[str, Any], file: Path, where: str) -> tuple[str, Any]:
    """From the row's `domain`, or from the name `<subset>_filtered.json`."""
    if _ROTATED.fullmatch(stem(file)):
        raise UserError(
            f"{file}: this is one of RM-R1's three copies with rotated rejected answers; "
            "give RM-Bench's original total_dataset.json"
        )
    if not isinstance(row.get("chosen"), list):
        raise WrongForm
    by_name, domain = stem(file).removesuffix("_filtered"), row.get("domain")
    if isinstance(domain, str):
        subset = known_subset(domain, ITEMS, BENCHMARK, where)
        if by_name in ITEMS and by_name != subset:
            raise UserError(f"{where}: the row's domain is '{subset}', but the file's is '{by_name}'")
        return subset, row.get("id")
    if by_name not in ITEMS:
        raise UserError(
            f"{where}: the row has no 'domain', and the file's name is not <domain>_filtered.json with "
            f"one of {', '.join(ITEMS)}"
        )
    return by_name, row.get("id")


def cells_of(subset: str, row: dict[str, Any]) -> list[str | None]:
    """All combinations of the chosen answer's and the rejected answer's style."""
    if not all(isinstance(row.get(side), list) and len(row[side]) == 3 for side in ("chosen", "rejected")):
        raise WrongForm
    return [f"{i}-{j}" for i in STYLES for j in STYLES]


def read_results(file: Path) -> Iterator[Verdict]:
    """The judgements of one item per row; see `foreign_matrix`."""
    names = ItemNames()
    by_name = _DOMAIN.match(file.name)
    for where, row in result_rows(file):
        subset = subset_of(row.get("domain") or (by_name and by_name[1]), ITEMS, BENCHMARK, where, "domain")
        item = names.once(subset, id_of(row.get("id")) or texts_id(row))
        for i, j, cell_row in matrix_cells(row, file, where):
            yield verdict(where, cell_row, (BENCHMARK, subset, item, f"{i}-{j}"), styled(row, i, cell_row))


def result(subsets: Mapping[str, SubsetOutcomes], rules: Policy, partial: bool = False) -> Result:
    """chat, math, code, safety, easy, normal, hard and avg of a verdict log, in [0, 1].

    The intervals treat a prompt's nine pairs as dependent.

    Args:
        subsets: outcomes by subset (see `ITEMS`), with cells "i-j" for the styles of the chosen and the
            rejected answer; several of a cell are averaged.
        rules: how verdicts are parsed.
        partial: accept missing subsets; a score that needs one is None.

    Raises:
        UserError: a subset is unknown or missing, a cell unknown, or an item's matrix incomplete.
    """
    check_subsets(subsets, ITEMS, BENCHMARK, partial)
    check_cells(subsets, _matrix_problem, BENCHMARK)
    scores_by_name = _matrix_scores(subsets, _reads(rules))
    rows = [
        SubsetResult.of(name, _accuracy([subsets[name]], sorted(CELLS), {}), subsets[name], ITEMS[name])
        for name in ITEMS
        if name in subsets
    ]
    covered = coverage(subsets, {name: (count, len(CELLS) * count) for name, count in ITEMS.items()})
    all_notes = notes(rules, covered)
    if rules.released_rm_bench:
        all_notes.insert(0, _released_note(_matrix_scores(subsets, {})))
    return Result(BENCHMARK, rules.name, scores_by_name, rows, statuses(subsets), all_notes, covered)


def elements(subsets: Mapping[str, SubsetOutcomes], rules: Policy) -> Elements:
    """One element per domain and difficulty, with three cells of each prompt."""
    third, quarter = 1 / len(DIFFICULTIES), 1 / len(DOMAINS)
    scores: dict[str, dict[str, float]] = {
        domain: {f"{domain} {name}": third for name in DIFFICULTIES} for domain in DOMAINS
    }
    scores |= {name: {f"{domain} {name}": quarter for domain in DOMAINS} for name in DIFFICULTIES}
    scores["avg"] = {f"{domain} {name}": third * quarter for domain in DOMAINS for name in DIFFICULTIES}
    gathered, reads = Elements(scores), _reads(rules)
    for name, subset in subsets.items():
        domain = next(domain for domain in DOMAINS if name.startswith(domain))
        for item, pairs in subset.items.items():
            for difficulty, cells in DIFFICULTIES.items():
                values = [pairs[reads.get(cell, cell)].mean_credit for cell in cells]
                gathered.add(name, subset.prompts.get(item, item), f"{domain} {difficulty}", values)
    return gathered


def _reads(rules: Policy) -> dict[str, str]:
    return RELEASED_READS if rules.released_rm_bench else {}


def _matrix_scores(
    subsets: Mapping[str, SubsetOutcomes], reads: Mapping[str, str]
) -> dict[str, Accuracy | None]:
    """The eight scores; `reads` maps cells to those whose verdicts they take."""
    matrix: dict[str, Accuracy | None] = {}
    by_difficulty: dict[str, dict[str, Accuracy | None]] = {name: {} for name in DIFFICULTIES}
    for domain in DOMAINS:
        names = [name for name in ITEMS if name.startswith(domain)]
        parts = [subsets[name] for name in names if name in subsets]
        whole = len(parts) == len(names)
        matrix[domain] = _accuracy(parts, sorted(CELLS), reads) if whole else None
        for difficulty, cells in DIFFICULTIES.items():
            by_difficulty[difficulty][domain] = _accuracy(parts, cells, reads) if whole else None
    for difficulty, domains in by_difficulty.items():
        matrix[difficulty] = mean(domains, DOMAINS)
    matrix["avg"] = mean(matrix, DOMAINS)
    return matrix


def _accuracy(parts: Sequence[SubsetOutcomes], cells: Sequence[str], reads: Mapping[str, str]) -> Accuracy:
    outcomes, items = [], []
    for number, part in enumerate(parts):
        for item, pairs in part.items.items():
            for cell in cells:
                pair: PairOutcome = pairs[reads.get(cell, cell)]
                outcomes.append(pair.mean_credit)
                items.append((number, item))
    return accuracy(outcomes, items)


def _matrix_problem(cells: set[str | None]) -> str | None:
    for cell in sorted(str(cell) for cell in cells - CELLS):
        return f"has the cell '{cell}'; cells are 0-0 to 2-2, with the chosen answer's style first"
    missing = sorted(CELLS - cells)
    return f"lacks the cell{'s' * (len(missing) > 1)} {', '.join(missing)}" if missing else None


def _released_note(right: Mapping[str, Accuracy | None]) -> str:
    figures = ", ".join(
        f"{name} {100 * score.value:.2f}"
        for name in ("easy", "normal", "hard", "avg")
        if (score := right[name]) is not None and score.value is not None
    )
    return (
        "RM-R1's aggregation as released, which puts the verdicts of cells 0-2, 1-0 and 2-1 into 0-1, 1-2 "
        f"and 2-0; subsets use the correct matrix{', which gives ' + figures if figures else ''}"
    )

# SPDX-License-Identifier: Apache-2.0
"""Rows without optional fields, and logs that do not cover the benchmark: every output says so."""

import json

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from reasongrm_nemo.cli import main
from reasongrm_nemo.data.jsonl import write_jsonl
from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.errors import UserError
from reasongrm_nemo.evaluation import rewardbench, rm_bench
from reasongrm_nemo.evaluation.benchmarks import score_rows
from reasongrm_nemo.evaluation.policies import get_policy


def call(*words):
    return CliRunner().invoke(main, ["score", *map(str, words)])


def row(subset, item, order="chosen_first", right=True, sample=None, cell=None, benchmark="rewardbench"):
    side = "AB"[right != (order == "chosen_first")]
    text = f"x</think>[[{side}]]"
    return Verdict(benchmark, subset, item, cell, order, side, right, False, "ok", 1, text, sample=sample)


def whole(orders=("chosen_first",)):
    return [
        row(name, f"{i}", o)
        for name, count in rewardbench.ITEMS.items()
        for i in range(count)
        for o in orders
    ]


def notes(rows, benchmark="rewardbench", partial=True):
    return score_rows(benchmark, "log", rows, partial=partial, draws=0).result.notes


# -- rows without the fields that the documentation calls optional -----------------------------------------


def dicts():
    return [
        {
            "benchmark": "rewardbench",
            "subset": name,
            "item_id": "1",
            "order": "rejected_first",
            "verdict": "B",
        }
        for name in rewardbench.ITEMS
    ]


def test_a_row_without_text_or_cell_is_scored_as_recorded(tmp_path):
    log = tmp_path / "log.jsonl"
    rows = dicts()
    rows[0] |= {"correct": True, "tie": False, "parse_status": "ok", "tokens": 3}
    rows[1] |= {"verdict": None, "parse_status": "no_think_close"}
    rows[2] |= {"verdict": "A", "text": "", "cell": None}
    rows[3] |= {"verdict": None, "tie": True}
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = json.loads(call("rewardbench", log, "--json").stdout)
    by_name = {subset["name"]: subset for subset in data["subsets"]}
    names = list(rewardbench.ITEMS)
    assert [by_name[name]["accuracy"]["value"] for name in names] == [1, 0, 0, 0] + [1] * 19
    assert data["statuses"] == {"ok": 21, "no_think_close": 1, "tie": 1}


def test_a_row_that_says_neither_order_nor_scores_is_refused():
    for missing in ("order", "verdict"):
        data = {key: value for key, value in dicts()[0].items() if key != missing}
        with pytest.raises(UserError, match=f"lacks the field '{missing}'"):
            Verdict.from_dict(data, "log.jsonl:1")


# -- what is missing, counted in judgements --------------------------------------------------------------


def test_a_whole_log_has_no_note():
    assert notes(whole(), partial=False) == []
    assert notes(whole(("chosen_first", "rejected_first"))) == []
    # one random order per pair: nothing is missing
    drawn = [
        replace(row, order=("chosen_first", "rejected_first")[i % 2], text="", verdict=None, correct=False)
        for i, row in enumerate(whole())
    ]
    assert notes(drawn) == []


def test_missing_items_and_subsets_are_counted_by_judgements():
    rows = [row for row in whole() if row.subset != "hep-go" and row.item_id != "3"]
    (note,) = notes(rows)
    assert note == (
        "not the whole benchmark: only 2,799 of 2,985 judgements; incomplete are "
        "alpacaeval-easy (99 of 100), alpacaeval-length (94 of 95), alpacaeval-hard (94 of 95) and 20 more "
        "subsets"
    )


def test_a_half_judged_order_is_counted_though_no_item_is_missing():
    rows = whole(("chosen_first", "rejected_first"))
    lost = [row for i, row in enumerate(rows) if i % 2 == 0 or i >= 200]
    scored = score_rows("rewardbench", "log", lost, draws=0)
    assert scored.result.coverage.judgements == 5870 and scored.result.coverage.expected == 5970
    assert scored.result.coverage.one_order == 100
    assert scored.result.notes == [
        "not the whole benchmark: only 5,870 of 5,970 judgements; "
        "incomplete are alpacaeval-easy (100 of 200)",
        "100 of 2,985 pairs are judged in one order only, the others in both",
    ]


def test_missing_samples_are_counted():
    rows = [
        row(name, f"{i}", sample=s) for name, n in rewardbench.ITEMS.items() for i in range(n) for s in (0, 1)
    ]
    assert notes(rows) == []
    (note,) = notes(rows[1:])
    assert "5,969 of 5,970 judgements; incomplete are alpacaeval-easy (199 of 200)" in note


def test_additional_items_are_reported_separately():
    rows = [*whole(), row("hep-go", "again")]
    (note,) = notes(rows)
    assert note == "more than the benchmark: hep-go has 165 items, 164 as published"


def test_a_majority_counts_judgements_too():
    rows = [
        row(name, f"{i}", sample=s) for name, n in rewardbench.ITEMS.items() for i in range(n) for s in (0, 1)
    ]
    rules = get_policy("paper", "majority")
    scored = score_rows("rewardbench", "log", rows[1:], rules, draws=0)
    assert scored.result.coverage.judgements == 5969
    assert scored.result.coverage.expected == 5970


# -- in every form of output -----------------------------------------------------------------------------


@pytest.fixture
def half(tmp_path):
    path = tmp_path / "half.jsonl"
    write_jsonl(
        path,
        [
            row
            for row in whole(("chosen_first", "rejected_first"))
            if row.item_id != "3" or row.order == "chosen_first"
        ],
    )
    return path


COUNT = "5,947 of 5,970 judgements"


@pytest.mark.parametrize(
    "words", [(), ("--table", "markdown"), ("--table", "latex"), ("--json",), ("--table", "latex", "--json")]
)
def test_every_output_of_score_says_that_judgements_are_missing(half, words, tmp_path):
    result = call("rewardbench", half, *words, "--page", tmp_path / "page.md")
    assert result.exit_code == 0, result.stderr
    assert COUNT in result.stdout
    assert COUNT in (tmp_path / "page.md").read_text()


def test_the_table_marks_the_row_and_no_other(half, tmp_path):
    full = tmp_path / "full.jsonl"
    write_jsonl(full, whole())
    text = call("rewardbench", half, "--table", "markdown", "--compare", full).stdout
    assert "| half †‡ |" in text and "| full † |" in text
    assert f"‡: incomplete (half: RewardBench {COUNT})." in text
    text = call("rewardbench", half, "--table", "latex").stdout
    assert r"half$^{\dagger\ddagger}$" in text
    assert rf"$\ddagger$: incomplete (half: RewardBench {COUNT})." in text


def test_a_comparison_says_which_of_the_two_is_incomplete(half, tmp_path):
    full = tmp_path / "full.jsonl"
    write_jsonl(full, whole())
    assert (
        f"note: half: not the whole benchmark: only {COUNT}"
        in call("rewardbench", full, "--compare", half).stdout
    )
    data = json.loads(call("rewardbench", full, "--compare", half, "--json").stdout)
    assert (
        COUNT in data["comparisons"][0]["notes"]["half"][0] and "full" not in data["comparisons"][0]["notes"]
    )


def test_rm_bench_counts_nine_judgements_a_prompt():
    rows = [
        row(name, "p", cell=cell, benchmark="rm_bench") for name in rm_bench.ITEMS for cell in rm_bench.CELLS
    ]
    assert "45 of 11,943 judgements;" in notes(rows, "rm_bench")[0]

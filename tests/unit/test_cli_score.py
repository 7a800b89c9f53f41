# SPDX-License-Identifier: Apache-2.0
"""`reasongrm score`: the table, the JSON, and one sentence for a faulty log."""

import json

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from reasongrm_nemo.cli import main
from reasongrm_nemo.data.jsonl import write_jsonl
from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.evaluation import rewardbench, rm_bench


def call(*words):
    return CliRunner().invoke(main, ["score", *map(str, words)])


def verdict(benchmark, subset, item, cell, text):
    return Verdict(benchmark, subset, item, cell, "chosen_first", None, False, False, "unread", 1, text)


def matrix(subsets=rm_bench.ITEMS):
    return [
        verdict("rm_bench", subset, "p1", cell, f"x</think>[[{'AB'[cell < '1']}]]")
        for subset in subsets
        for cell in sorted(rm_bench.CELLS)
    ]


@pytest.fixture
def log(tmp_path):
    def write(rows, name="log.jsonl"):
        path = tmp_path / name
        write_jsonl(path, rows)
        return path

    return write


def test_the_table(log):
    result = call("rm_bench", log(matrix()))
    assert result.exit_code == 0, result.stderr
    assert "rm_bench, policy paper" in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    figures = {line[0]: line[1] for line in lines if len(line) > 2}
    assert figures["easy"] == "100.00" and figures["normal"] == "66.67" and figures["hard"] == "33.33"
    assert figures["avg"] == figures["safety"] == figures["safety-refuse"] == "66.67"
    assert next(line for line in lines if line[:1] == ["math"] and len(line) > 5)[-5:] == [
        "1",
        "529",
        "9",
        "0",
        "0",
    ]
    assert "judgements: 45 ok" in result.stdout
    assert "note: not the whole benchmark: only 45 of 11,943 judgements" in result.stdout
    assert "chat (9 of 1,161)" in result.stdout


def test_json_and_shards_and_policy(log):
    rows = matrix()
    shards = log(rows[:7], "a.jsonl"), log(rows[7:], "b.jsonl")
    result = call("rm_bench", *shards, "--json", "--policy", "rm_r1")
    assert result.stderr == ""
    data = json.loads(result.stdout)
    assert data["policy"] == "rm_r1"
    assert data["scores"]["avg"]["value"] == pytest.approx(2 / 3)  # (0 + 1) + 2, (0 + 1 + 1), 3 of 9
    assert data["scores"]["hard"]["value"] == pytest.approx(1 / 3)
    assert "as released" in data["notes"][0]
    assert data["subsets"][0]["judgements"] == 9


@pytest.mark.parametrize(("policy", "read"), [("last", 1.0), ("strict_last", 0.0)])
def test_the_judges_policies_score_whatever_the_rows_say(log, policy, read):
    rows = [replace(row, policy="rewardbench") for row in rewardbench_log()]
    rows = [replace(row, text="[[A]]") for row in rows]
    data = json.loads(call("rewardbench", log(rows), "--json", "--policy", policy).stdout)
    assert data["policy"] == policy and data["scores"]["Score"]["value"] == read


def test_rows_of_a_scalar_model_need_few_fields(tmp_path):
    path = tmp_path / "armo.jsonl"
    rows = [
        {"benchmark": "rewardbench", "subset": name, "item_id": f"{i}", "cell": None}
        | {"chosen_score": 0.5, "rejected_score": (0.5, 0.25)[i]}
        for name in rewardbench.ITEMS
        for i in range(2)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = json.loads(call("rewardbench", path, "--json", "--policy", "rewardbench").stdout)
    assert data["scores"]["Score"]["value"] == 0.5
    assert data["statuses"] == {"ok": 23, "tie": 23}


def test_a_partial_log_gives_what_it_can(log):
    path = log(matrix(["chat", "safety-refuse"]))
    result = call("rm_bench", path, "--partial")
    assert result.exit_code == 0
    figures = {line.split()[0]: line.split()[1] for line in result.stdout.splitlines()[4:12]}
    assert figures["chat"] == "66.67" and figures["safety"] == figures["hard"] == figures["avg"] == "–"
    released = call("rm_bench", path, "--partial", "--policy", "rm_r1")
    assert "subsets use the correct matrix\n" in released.stdout


def rewardbench_log():
    return [verdict("rewardbench", name, "1", None, "x</think>[[A]]") for name in rewardbench.ITEMS]


FAULTS = {
    "no such benchmark": (
        "rmbench",
        "paper",
        matrix(),
        "unknown benchmark 'rmbench' (did you mean 'rm_bench'?)",
    ),
    "no such policy": ("rm_bench", "rmr1", matrix(), "unknown policy 'rmr1' (did you mean 'rm_r1'?)"),
    "another benchmark's log": ("rmb", "paper", matrix(), "belongs to the benchmark 'rm_bench', not rmb"),
    "nothing": ("rmb", "paper", [], "the log holds no verdicts"),
    "one subset missing": (
        "rewardbench",
        "paper",
        [row for row in rewardbench_log() if row.subset != "hep-go"],
        "rewardbench lacks the subset hep-go; judge the rest, or give --partial",
    ),
    "many subsets missing": (
        "rewardbench",
        "paper",
        rewardbench_log()[:5],
        "lacks the subsets mt-bench-hard, llmbar-natural, llmbar-adver-neighbor and 15 more",
    ),
    "unknown subset": (
        "rewardbench",
        "paper",
        [*rewardbench_log(), verdict("rewardbench", "hep-ruby", "1", None, "")],
        "rewardbench has no subset 'hep-ruby' (did you mean 'hep-rust'?)",
    ),
    "incomplete matrix": (
        "rm_bench",
        "paper",
        [row for row in matrix() if (row.subset, row.cell) != ("math", "1-2")],
        "item 'p1' of 'math' lacks the cell 1-2",
    ),
    "unknown cell": (
        "rm_bench",
        "paper",
        [replace(row, cell="0-3") for row in matrix()],
        "item 'p1' of 'chat' has the cell '0-3'; cells are 0-0 to 2-2",
    ),
    "a cell where none belongs": (
        "rewardbench",
        "paper",
        [replace(row, cell="0") for row in rewardbench_log()],
        "has a cell, but items have none",
    ),
    "a group without cells": (
        "rmb",
        "paper",
        [verdict("rmb", "BoN_set/Harmlessness/S1", "g", None, "")],
        "has a row without a cell, which names the loser",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_log_is_refused_in_one_sentence(log, fault):
    benchmark, policy, rows, says = FAULTS[fault]
    partial = ["--partial"] if fault == "a group without cells" else []
    result = call(benchmark, log(rows), "--policy", policy, *partial)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stdout == "" and result.stderr.count("\n") == 1
    assert "did you mean" in says or "log.jsonl" in result.stderr


def test_a_broken_line_is_named_once(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"benchmark": "rmb"}\n')
    result = call("rmb", path)
    assert result.exit_code == 2
    assert result.stderr == f"reasongrm: {path}:1: Verdict lacks the field 'subset'\n"


def test_a_repeated_sample_is_refused(log):
    rows = [replace(row, sample=0) for row in matrix()]
    more = [replace(row, sample=1) for row in rows]
    turned = [replace(row, order="rejected_first") for row in rows]
    run = log(rows, "a.jsonl")
    for again, place in ((run, "1"), (log([*more, rows[0]], "b.jsonl"), f"{len(more) + 1}")):
        result = call("rm_bench", run, again)
        assert result.exit_code == 2 and result.stdout == "" and result.stderr.count("\n") == 1
        where = f"{again}:{place}: sample 0 of item 'p1' of 'chat', cell 0-0, chosen_first, is repeated"
        assert where in result.stderr
    unnamed = log(matrix(), "d.jsonl"), log(matrix(), "e.jsonl")
    assert call("rm_bench", run, log(more, "b.jsonl"), log(turned, "c.jsonl"), *unnamed).exit_code == 0

# SPDX-License-Identifier: Apache-2.0
"""The paper's tables as data, with runs made here among the published rows, and the page of judgements."""

import json
import os

import pytest
from click.testing import CliRunner

from reasongrm_nemo.cli import main
from reasongrm_nemo.data.jsonl import write_jsonl
from reasongrm_nemo.data.records import Verdict
from reasongrm_nemo.evaluation import rewardbench
from reasongrm_nemo.evaluation.tasks import BenchmarkTask
from reasongrm_nemo.report.paper_tables import TableRun, as_latex, build_tables, published, tables_as_markdown

RUNS = [
    TableRun("my_judge & co", False, {"rewardbench": {"Score": 0.9601, "Chat": 0.5}}),
    TableRun(
        "scalar_rm",
        True,
        {"rewardbench": {"Score": 0.9234}, "rm_bench": {"avg": 0.7}, "rmb": {"Overall": 0.6}},
    ),
    TableRun("nothing", False, {}),
]


def rows_of(number):
    table = published()["tables"][number]
    return {row[0]: row[1:] for kind in ("scalar", "generative") for row in table.get(kind, [])}


def test_every_row_has_a_figure_in_each_column():
    for number, table in published()["tables"].items():
        for name, values in rows_of(number).items():
            assert len(values) == len(table["columns"]), (number, name)
            assert all(value is None or 25 < value < 100 for value in values)
    assert len(rows_of(1)) == len(rows_of(4)) == len(rows_of(5)) == len(rows_of(6)) == 16


def test_the_printed_figures_agree_except_where_the_remarks_say_so():
    """Each row's mean against its last column, and Table 1 against 4 to 6, to find slips in copying."""
    off = set()
    for number in published()["tables"]:
        tolerance = 0.0101 if number in (2, 3) else 0.1001  # the last printed digit, rounded twice
        for name, values in rows_of(number).items():
            if None in values:
                continue
            groups = [values[:4], values[4:7]] if number == 5 else [values[:-1]]
            if any(abs(sum(group) / len(group) - values[-1]) > tolerance for group in groups):
                off.add((number, name))
    assert off == {
        (1, "Skywork-Reward-Llama-3.1-8B"),
        (2, "QwQ + R* SFT"),
        (4, "ReasonGRM-QwQ-32B"),
        (5, "JudgeLRM"),
        (6, "JudgeLRM"),
    }
    apart = {
        (number, name)
        for column, number in enumerate((4, 5, 6))
        for name, values in rows_of(number).items()
        if rows_of(1)[name][column] != values[-1]
    }
    assert apart == {
        (4, "Internlm2-7b-reward"),
        (4, "Nemotron-4-340B-Reward"),
        (4, "Self-taught-evaluator-llama3.1-70B"),
        (5, "Self-taught-evaluator-llama3.1-70B"),
        (5, "ReasonGRM-QwQ-32B"),
        (6, "Skywork-Reward-Llama-3.1-8B"),
    }
    assert len(published()["remarks"]) == 8


def test_runs_stand_below_their_kind_with_the_best_marked():
    text = tables_as_markdown(build_tables(4, RUNS))
    lines = text.splitlines()
    assert lines[0] == "RewardBench (the paper's Table 4, in %). †: our run."
    assert "| scalar\\_rm † | – | – | – | – | 92.3 |" in lines
    assert "| my\\_judge & co † | 50.0 | – | – | – | **96.0** |" in lines
    assert lines.index("| scalar\\_rm † | – | – | – | – | 92.3 |") < lines.index(
        "| *Generative reward models* | | | | | |"
    )
    assert "nothing" not in text
    assert "| INF-ORM-Llama3.1-70B | 96.6 | <u>91.0</u> | **93.6** | **99.1** | <u>95.1</u> |" in lines


def test_the_average_needs_all_three():
    rows = {row.name: row.values for row in build_tables(1, RUNS).rows if row.here}
    assert rows["scalar_rm"][:3] == pytest.approx((92.34, 70.0, 60.0))
    assert rows["scalar_rm"][3] == pytest.approx((92.34 + 70 + 60) / 3)
    assert rows["my_judge & co"] == (pytest.approx(96.01), None, None, None)


def test_tables_of_stages_have_two_digits_and_no_kinds():
    text = tables_as_markdown(build_tables(2, RUNS[:1]))
    assert "| my\\_judge & co † | 50.00 | – | – | – | **96.01** |" in text
    assert "*Scalar" not in text and "| QwQ + R\\* SFT + GRPO |" in text


def test_latex_escapes_and_closes_what_it_opens():
    text = as_latex(build_tables(4, RUNS))
    assert r"my\_judge \& co$^\dagger$ & 50.0 & -- & -- & -- & \textbf{96.0} \\" in text
    assert r"\multicolumn{6}{l}{\textit{Scalar reward models}} \\" in text
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == 1
    body = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert {line.replace(r"\&", "").count("&") for line in body} == {5}
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert as_latex(build_tables(4, [TableRun("a\\b~^{}%$#", False, RUNS[0].scores)])).count(
        r"a\textbackslash{}b\textasciitilde{}\textasciicircum{}\{\}\%\$\#"
    )


# -- the command -------------------------------------------------------------------------------------------


def call(*words):
    result = CliRunner().invoke(main, ["score", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def logs(tmp_path):
    """Logs of a judge that is right in the first order only, and of one that is always right."""
    paths = []
    for name in ("half", "whole"):
        rows = []
        for subset in rewardbench.ITEMS:
            for order, label in (("chosen_first", "A"), ("rejected_first", "B")):
                said = "A" if name == "half" else label
                text = f"```` {name} ````</think>[[{said}]]"
                rows.append(
                    Verdict(
                        *("rewardbench", subset, "1", None, order, said, said == label, False, "ok", 9, text),
                        turns=1,
                        chosen_chars=5,
                        rejected_chars=4,
                        prompt_tokens=3,
                    )
                )
        paths.append(tmp_path / f"{name}.jsonl")
        write_jsonl(paths[-1], rows)
    return paths


def test_details_compare_and_json(logs):
    half, whole = logs
    text = call("rewardbench", half, "--details", "--compare", whole)
    assert "verdicts for the answer shown first" in text and "100.00" in text
    assert "half against whole, 23 pairs judged by both" in text
    assert "only whole 23" in text and "tokens: 414 in responses" in text and "138 in prompts" in text
    data = json.loads(call("rewardbench", half, "--details", "--compare", whole, "--json"))
    assert data["name"] == "half" and data["vote"] == "mean"
    assert data["details"]["positions"]["both"]["always_first"]["value"] == 1.0
    (compared,) = data["comparisons"]
    assert compared["mcnemar"]["only_second"] == 23 and compared["differences"]["Score"]["difference"] == -0.5
    assert "details" not in json.loads(call("rewardbench", half, "--json"))


def test_the_table_of_several_runs(logs):
    half, whole = logs
    text = call("rewardbench", half, "--compare", whole, "--table", "markdown", "--name", "my judge")
    assert "| my judge †‡ | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 |" in text
    assert "| whole †‡ | **100.0** | **100.0** | **100.0** | **100.0** | **100.0** |" in text
    assert r"\bottomrule" in call("rewardbench", half, "--table", "latex")


def test_the_page(logs, tmp_path):
    tasks = tmp_path / "tasks.jsonl"
    question = [{"role": "user", "content": "Which, A or B?"}]
    shown = [
        BenchmarkTask("t", "p", name, question, "B", "rejected_first", "rewardbench", name, "1", None)
        for name in rewardbench.ITEMS
    ]
    write_jsonl(tasks, shown)
    page = tmp_path / "pages" / "page.md"
    call("rewardbench", logs[0], "--page", page, "--tasks", tasks)
    text = page.read_text()
    assert "# rewardbench: half" in text and "| Score | 50.00 |" in text
    assert "| hep-go | 50.00 | 1 | 0 | 0 | 0 | 1 | 0 | 0 | 0 |" in text
    assert text.count("### ") == 10 and "user: Which, A or B?" in text
    assert "The right answer is B, the verdict A (9 tokens):" in text
    # fences within a text do not end the text's block
    assert "`````text\n```` half ````</think>[[A]]\n`````" in text
    call("rewardbench", logs[0], "--page", page)
    assert "Which, A or B?" not in page.read_text()


def test_text_that_utf8_cannot_encode_is_replaced_in_all_output(tmp_path):
    page, path = tmp_path / "page.md", tmp_path / os.fsdecode(b"log\xff.jsonl")
    rows = [
        {"benchmark": "rewardbench", "subset": name, "item_id": f"\ud800{i}", "cell": None, "tie": False}
        | {"order": "chosen_first", "verdict": None, "correct": False, "parse_status": "odd\udfff"}
        | {"tokens": 1, "text": "\ud800 so</think>[[B]]" * i, "prompt_id": "\ud800"}
        for name in rewardbench.ITEMS
        for i in range(2)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "odd\ufffd" in call("rewardbench", path, "--details", "--compare", path)
    data = json.loads(call("rewardbench", path, "--page", page, "--json"))
    assert data["name"] == "log\ufffd" and data["statuses"]["odd\ufffd"] == 23
    assert "item \ufffd1" in page.read_text() and "\ufffd so</think>" in page.read_text()
    for form in ("markdown", "latex"):
        assert "log\ufffd" in call("rewardbench", path, "--table", form)


def test_runs_with_the_same_name_are_told_apart_by_their_paths(logs, tmp_path):
    other = tmp_path / "other" / "half.jsonl"
    other.parent.mkdir()
    other.write_bytes(logs[1].read_bytes())
    assert f"half against {other}, 23 pairs" in call("rewardbench", logs[0], "--compare", other)


def test_unknown_votes_and_tables_are_refused(logs):
    alone = CliRunner().invoke(main, ["score", "rewardbench", str(logs[0]), "--tasks", "x"])
    assert alone.exit_code == 2 and "give --page FILE too" in alone.stderr
    result = CliRunner().invoke(main, ["score", "rewardbench", str(logs[0]), "--vote", "median"])
    assert result.exit_code == 2 and "unknown vote 'median'" in result.stderr
    assert CliRunner().invoke(main, ["score", "rewardbench", str(logs[0]), "--table", "html"]).exit_code == 2

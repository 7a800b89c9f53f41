# SPDX-License-Identifier: Apache-2.0
"""Progress lines and the tables at the end."""

import io
from pathlib import Path

import pytest

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.report import artefact, summary
from reasongrm_nemo.run.console import Console, duration, figures_line
from reasongrm_nemo.run.stage import Outcome


def test_durations():
    assert [duration(s) for s in (0, 59.6, 75, 3700, -1)] == ["0:00", "1:00", "1:15", "1:01:40", "0:00"]


def test_a_step_s_line():
    line = figures_line(
        {
            "reward": 0.6153,
            "kept": 14,
            "groups": 24,
            "response_tokens": 52.13,
            "log_prob_error_mean": 3.2e-7,
            "log_prob_error_max": 2.0e-5,
            "tokens_per_second": 1834.2,
            "lr": 3e-4,
            "loss": None,
        }
    )
    assert line == (
        "reward 0.615  kept 14/24  response 52.1 tok  log-prob error 3.2e-07 (max 2.0e-05)  "
        "1,834 tok/s  lr 0.0003"
    )


@pytest.fixture
def stream():
    return io.StringIO()


def test_without_a_terminal_each_step_is_a_plain_line(stream):
    console = Console(stream)
    with console.progress("grpo", total=3, done=1) as progress:
        progress.update(2, reward=0.5)
        progress.update(3, reward=0.75)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("  grpo step 2/3  reward 0.500  ") and lines[0].endswith(" left")
    assert lines[1] == "  grpo step 3/3  reward 0.750"


def test_items_do_not_get_a_line_each(stream):
    with Console(stream).progress("paths", total=500, unit="task") as progress:
        for _ in range(500):
            progress.advance(right=1.0)
    assert stream.getvalue() == "  paths 500/500 tasks  right 1.000\n"


def test_a_terminal_shows_a_bar_and_text_is_not_taken_for_markup(stream):
    stream.isatty = lambda: True
    console = Console(stream)
    console.line("verdict [[A]] [bold]not bold[/bold] :smile:")
    with console.progress("grpo", total=2) as progress:
        progress.update(1, reward=0.5)
    assert "verdict [[A]] [bold]not bold[/bold] :smile:" in stream.getvalue()
    assert "grpo step 1/2" in stream.getvalue()


def test_quiet_still_warns(stream):
    console = Console(stream, quiet=True)
    console.line("hello")
    console.drops({"odd": 1})
    with console.progress("x", total=1) as progress:
        progress.update(1)
    console.warn("the server was lost")
    assert stream.getvalue() == "warning: the server was lost\n"


def test_drops(stream):
    Console(stream).drops({"too long": 3, "empty": 1})
    Console(stream).drops({})
    assert stream.getvalue() == "  dropped: 1 empty, 3 too long\n"


def entry(model, temperature, value, modes=None):
    accuracy = {"value": value, "low": value - 0.02, "high": value + 0.02, "items": 1000}
    figures = {"format": 0.97, "truncated": 0.02, "mean_tokens": 41.26, "position_a": 0.5, "modes": modes}
    words = "published" if temperature is None else "greedy" if temperature == 0 else f"T = {temperature:g}"
    drawn = {"setting": words, "sampling": f"{words}!", "temperature": temperature, "samples": 2}
    return {"model": model, "accuracy": accuracy, **drawn, **figures}


@pytest.fixture
def report(tmp_path):
    scores = [entry(m, t, v) for m, v in (("base", 0.528), ("final", 0.764)) for t in (1.0, 0.6, 0.0)]
    return summary.build_summary(
        scores, ["base", "final"], tmp_path, {"base": "x", "final": "@6_grpo_hard/hf"}, "No judge."
    )


def test_the_table(report):
    head, rows = summary.table(report)
    assert head == ["model", "T = 1", "T = 0.6", "greedy", "format", "cut off", "tokens", "time to make"]
    assert rows[0] == ["base", "52.8 ± 2.0", "52.8 ± 2.0", "52.8 ± 2.0", "97.0 %", "2.0 %", "41.3", ""]
    text = summary.summary_as_markdown(report)
    assert "on 1000 held-out pairs" in text and text.endswith("|---|---|\n") and "No judge." in text


def test_the_sampling_of_published_settings_is_stated_below_the_table(tmp_path):
    scores = [entry(model, None, 0.5) for model in ("base", "final")]
    made_of = {"base": "x", "final": "y"}
    report = summary.build_summary(scores, ["base", "final"], tmp_path, made_of, None)
    assert summary.table(report)[0][1] == "published"
    assert "Published settings: base: published!; final: published!." in summary.summary_as_markdown(report)


def test_a_report_of_an_earlier_version_is_still_shown(report):
    for row in report["rows"]:
        for setting in row["settings"]:
            del setting["setting"], setting["sampling"], setting["truncated"]
    head, rows = summary.table(report)
    assert head[1:4] == ["T = 1", "T = 0.6", "greedy"] and rows[0][5] == "–"


def test_the_end_of_a_pipeline(report, tmp_path):
    from reasongrm_nemo.files.writes import write_json

    write_json(tmp_path / "report.json", report)
    manifest = {"stage": "evaluate", "timings": {"seconds": 60.0}, "drops": {"too long": 2}}
    outcomes = [Outcome("7_evaluate", tmp_path, False, manifest)]
    text = summary.summary_as_text(summary.pipeline_report(Path("recipes/tiny"), outcomes))
    assert "All stages together: 1:00." in text
    assert "76.4 ± 2.0" in text and "No judge." in text
    assert str(tmp_path / "6_grpo_hard" / "hf") in text
    assert "reasongrm show" in text and "reasongrm pipeline recipes/tiny seed=2" in text
    nothing = summary.summary_as_text(
        summary.pipeline_report(Path("x"), [Outcome("a", tmp_path, True, manifest | {"stage": "sft"})])
    )
    assert "unchanged" in nothing and "Next" not in nothing


def test_published_benchmarks_are_shown_below_the_table_or_alone(report, tmp_path):
    compared = {
        "first": "b",
        "second": "a",
        "mcnemar": {"exact": 0.25},
        "differences": {"avg": {"difference": 0.02, "low": -0.01, "high": 0.05}},
    }
    benchmark = {
        "scores": ["chat", "avg"],
        "rows": [
            {
                "run": "a",
                "truncated": 0.25,
                "sampling": "T = 1",
                "scores": [["–", "–"], ["61.00", "[58.00, 64.00]"]],
            }
        ],
        "notes": ["not the whole benchmark"],
        "comparisons": [compared],
    }
    report["benchmarks"] = {"rm_bench": benchmark}
    text = summary.summary_as_markdown(report)
    assert text.index("Held-out accuracy") < text.index("# rm_bench")
    assert "| a | – | 61.00 | 25.0 % |" in text and "a is sampled with T = 1" in text
    assert "Note: not the whole benchmark." in text
    assert "| b | a | avg | +2.00 | [-1.00, +5.00] | 0.25 |" in text
    for row in report["rows"]:
        row["settings"] = []
    alone = summary.summary_as_markdown(report)
    assert "Held-out" not in alone and "| a | – | 61.00 |" in alone
    manifest = {
        "name": "7_evaluate",
        "stage": "evaluate",
        "seed": 1,
        "code": {"version": "0"},
        "timings": {"seconds": 1.0, "sessions": []},
        "packages": {},
        "inputs": {},
        "drops": {},
        "outputs": {},
        "result": {"report": report},
    }
    assert "note: not the whole benchmark" in artefact.describe_manifest(tmp_path, manifest)


def test_a_path_that_is_not_an_artefact_is_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        artefact.read_artefact(tmp_path / "none")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="is not an artefact"):
        artefact.read_artefact(tmp_path / "folder")
    (tmp_path / ".partial" / "2_generate").mkdir(parents=True)
    with pytest.raises(UserError, match="is not finished"):
        artefact.read_artefact(tmp_path / "2_generate")

# SPDX-License-Identifier: Apache-2.0
"""The tables at the end of a run: the accuracy of each model (as the paper's Table 2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.documents import read_json
from reasongrm_nemo.files.shapes import NUMBER, shaped
from reasongrm_nemo.processes.work_order import LOSSES
from reasongrm_nemo.run.console import duration
from reasongrm_nemo.run.text import aligned, markdown, markdown_table, printable

if TYPE_CHECKING:
    from reasongrm_nemo.run.stage import Outcome


_TIMED = {"name": str, "stage": str, "timings": {"seconds": NUMBER}}


def build_summary(
    scores: Sequence[Mapping[str, Any]],
    models: Sequence[str],
    runs_dir: Path,
    made_of: Mapping[str, str],
    note: str | None,
) -> dict[str, Any]:
    """The report of one evaluation as plain data.

    Args:
        scores: one entry per model and setting: `model, setting, sampling, samples`, the temperature and the
            stage's figures.
        models: the rows, in order.
        runs_dir: the folder with the manifests of the stages that made the models.
        made_of: model -> its path in the recipe, to find the stage that made it.
        note: printed under the table.
    """
    stages = _stages(runs_dir)
    seconds = {stage["name"]: stage["seconds"] for stage in stages}
    rows = []
    for model in models:
        path = made_of[model]
        maker = path[1:].split("/")[0] if path.startswith("@") else None
        rows.append(
            {
                "model": model,
                "path": path,
                "made_by": maker,
                "seconds": seconds.get(maker) if maker else None,
                "settings": [
                    {
                        "setting": entry["setting"],
                        "sampling": entry["sampling"],
                        "temperature": entry["temperature"],
                        "samples": entry["samples"],
                        "accuracy": entry["accuracy"],
                        "format": entry["format"],
                        "truncated": entry["truncated"],
                        "mean_tokens": entry["mean_tokens"],
                        "position_a": entry["position_a"],
                        "modes": entry["modes"],
                    }
                    for entry in scores
                    if entry["model"] == model
                ],
            }
        )
    return {"rows": rows, "stages": stages, "runs_dir": str(runs_dir), "note": note}


def _stages(runs_dir: Path) -> list[dict[str, Any]]:
    """Every finished artefact of a runs folder, by name."""
    stages = []
    for path in sorted(runs_dir.glob("*/manifest.json")):
        with suppress(UserError):  # a stray folder; real artefacts are checked when they are used
            manifest = shaped(read_json(path), _TIMED, str(path))
            seconds = manifest["timings"]["seconds"]
            stages.append({"name": manifest["name"], "stage": manifest["stage"], "seconds": seconds})
    return stages


def pipeline_report(folder: Path, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The report of a pipeline's run: each stage, and the table if it ended with an evaluation."""
    report: dict[str, Any] = {
        "folder": str(folder),
        "stages": [
            {
                "name": outcome.name,
                "path": str(outcome.path),
                "skipped": outcome.skipped,
                "seconds": outcome.manifest["timings"]["seconds"],
                "drops": outcome.manifest["drops"],
                "servers_lost": outcome.manifest.get("result", {}).get("servers_lost", 0),
            }
            for outcome in outcomes
        ],
        "evaluation": None,
    }
    for outcome in outcomes:
        if (outcome.path / "report.json").is_file() and outcome.manifest["stage"] == "evaluate":
            report["evaluation"] = read_json(outcome.path / "report.json")
    return report


def _percent(accuracy: Mapping[str, Any]) -> str:
    if accuracy["value"] is None:
        return "-"
    half = (accuracy["high"] - accuracy["low"]) / 2
    return f"{100 * accuracy['value']:.1f} ± {100 * half:.1f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _label(setting: Mapping[str, Any]) -> str:
    if "setting" in setting:
        return str(setting["setting"])
    temperature = setting["temperature"]  # written by an earlier version
    return "greedy" if temperature == 0 else f"T = {temperature:g}"


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: accuracy at each setting, then format, length, kind of path and time to make the model.

    Format, truncated share, length and kind are those of the first setting.
    """
    settings = report["rows"][0]["settings"]
    has_modes = any(row["settings"][0]["modes"] for row in report["rows"])
    head = ["model", *(_label(setting) for setting in settings), "format", "cut off", "tokens"]
    head += ["concise"] if has_modes else []
    rows = []
    for row in report["rows"]:
        first = row["settings"][0]
        cells = [row["model"], *(_percent(setting["accuracy"]) for setting in row["settings"])]
        cells += [f"{100 * first['format']:.1f} %", _share(first.get("truncated"))]
        cells += [f"{first['mean_tokens']:.1f}"]
        cells += [f"{100 * (first['modes'] or {}).get('concise', 0):.0f} %"] if has_modes else []
        rows.append([*cells, duration(row["seconds"]) if row["seconds"] is not None else ""])
    return [*head, "time to make"], rows


def _held_out(report: Mapping[str, Any]) -> bool:
    """Whether the evaluation had held-out tasks."""
    return bool(report["rows"] and report["rows"][0]["settings"])


def _benchmarks(report: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[list[str]], list[str]]]:
    """Name, head, rows and notes of the table of each published benchmark."""
    for name, benchmark in report.get("benchmarks", {}).items():
        rows = [
            [row["run"], *(value for value, _ in row["scores"]), _share(row.get("truncated"))]
            for row in benchmark["rows"]
        ]
        drawn = [
            f"{row['run']} is sampled with {row['sampling']}"
            for row in benchmark["rows"]
            if row.get("sampling")
        ]
        yield name, ["%", *benchmark["scores"], "cut off"], rows, [*benchmark["notes"], *drawn]


def _compared(comparison: Mapping[str, Any]) -> list[str]:
    """A table row that compares two runs, by the last score that both have."""
    row = [comparison["first"], comparison["second"], "–", "–", "–", f"{comparison['mcnemar']['exact']:.3g}"]
    for name, difference in comparison["differences"].items():
        low, high = difference["low"], difference["high"]
        interval = "–" if low is None else f"[{100 * low:+.2f}, {100 * high:+.2f}]"
        row[2:5] = [name, f"{100 * difference['difference']:+.2f}", interval]
    return row


def _caption(report: Mapping[str, Any]) -> str:
    first = report["rows"][0]["settings"][0]
    figures = "format, cut off, tokens and kind of path" if first["modes"] else "format, cut off and tokens"
    return (
        f"Accuracy in % with its 95 % interval on {first['accuracy']['items']} held-out pairs; "
        f"{figures} at {_label(first)}.{_drawn(report)}"
    )


def _drawn(report: Mapping[str, Any]) -> str:
    """The sampling parameters of each model at its published setting."""
    published = [
        f"{row['model']}: {setting['sampling']}"
        for row in report["rows"]
        for setting in row["settings"]
        if setting.get("setting") == "published"
    ]
    return f" Published settings: {'; '.join(published)}." if published else ""


def summary_as_markdown(report: Mapping[str, Any]) -> str:
    """report.md: the table, the stages' times, the note."""
    lines = []
    if _held_out(report):
        lines += [
            "# Held-out accuracy",
            "",
            markdown(_caption(report)),
            "",
            *markdown_table(*table(report)),
            "",
        ]
    for name, head, rows, notes in _benchmarks(report):
        lines += [f"# {name}", "", *markdown_table(head, rows), ""]
        lines += [f"Note: {markdown(note)}.\n" for note in notes]
        if compared := [_compared(comparison) for comparison in report["benchmarks"][name]["comparisons"]]:
            columns = ["run", "against", "score", "difference", "95 % interval", "McNemar's p"]
            lines += [*markdown_table(columns, compared), ""]
    if report["note"]:
        lines += [printable(report["note"], keep="\n\t"), ""]  # from the recipe, as Markdown
    stages = [[stage["name"], duration(stage["seconds"])] for stage in report["stages"]]
    lines += markdown_table(["stage", "time"], stages)
    return "\n".join(lines) + "\n"


def summary_as_text(report: Mapping[str, Any]) -> str:
    """The end of a pipeline on a terminal: stages, table, note, and suggestions."""
    lines = [""]
    evaluation = report["evaluation"]
    stages = [
        [
            stage["name"],
            duration(stage["seconds"]),
            "unchanged" if stage["skipped"] else "done",
            stage["path"],
        ]
        for stage in report["stages"]
    ]
    lines += aligned(["stage", "time", "", "artefact"], stages, left=(0, 2, 3))
    total = sum(stage["seconds"] for stage in report["stages"])
    lines += ["", f"All stages together: {duration(total)}."]
    lines += [
        f"{stage['name']} lost a rollout server {stage['servers_lost']} times and continued; "
        f"see {stage['path']}/{LOSSES}."
        for stage in report["stages"]
        if stage.get("servers_lost")
    ]
    if evaluation:
        lines += evaluation_lines(evaluation)
        lines += ["", "Next:", *_next(report, evaluation)]
    return "\n".join(lines)


def evaluation_lines(report: Mapping[str, Any]) -> list[str]:
    """The table of held-out tasks and those of benchmarks, on a terminal."""
    lines = ["", *aligned(*table(report)), "", _caption(report)] if _held_out(report) else []
    for name, head, rows, notes in _benchmarks(report):
        lines += ["", name, "", *aligned(head, rows), "", *(f"note: {note}" for note in notes)]
    return lines + ([report["note"]] if report["note"] else [])


def _next(report: Mapping[str, Any], evaluation: Mapping[str, Any]) -> list[str]:
    """Commands to try after a whole pipeline."""
    folder = report["folder"]
    tries = [
        (
            f"reasongrm show {report['stages'][-1]['path']}",
            "its inputs and outputs, with hashes and versions",
        ),
        (f"reasongrm pipeline {folder} seed=2 runs_dir=runs/seed_2", "the same with another seed"),
    ]
    final = evaluation["rows"][-1]
    if final["made_by"]:
        model = Path(evaluation["runs_dir"]) / final["path"][1:]
        tries.insert(0, (str(model), f"the model of the row {final['model']}, a Hugging Face folder"))
    others = sorted(path.parent for path in Path(folder).parent.glob("*/0_*.yaml"))
    tries += [(f"reasongrm pipeline {path}", "another pipeline") for path in others if path != Path(folder)]
    width = max(len(command) for command, _ in tries)
    return [f"  {command.ljust(width)}  {what}" for command, what in tries]

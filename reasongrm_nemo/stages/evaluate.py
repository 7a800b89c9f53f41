# SPDX-License-Identifier: Apache-2.0
"""Evaluate: every model at each setting, on held-out tasks (Table 2's form) and on published benchmarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reasongrm_nemo.data import Verdict, read_jsonl, write_jsonl
from reasongrm_nemo.data.tiny_judge import mode as tiny_mode
from reasongrm_nemo.evaluation import summarize_verdicts
from reasongrm_nemo.files import write_json, write_text
from reasongrm_nemo.report import summary
from reasongrm_nemo.stages.benchmark_scores import BenchmarkScores
from reasongrm_nemo.stages.context import StageContext
from reasongrm_nemo.stages.judging import HELD_OUT, Judging, load_questions
from reasongrm_nemo.stages.sampling import Ask

_PATH_MODES = {"tiny_judge": tiny_mode}


def run(ctx: StageContext) -> dict[str, Any]:
    """Write verdicts/ (`Verdict`), scores.json, report.json and report.md.

    Held-out tasks: verdicts/<model>_t<temperature>.jsonl.  Benchmarks: verdicts/<benchmark>/ likewise, beside
    tasks/ (`BenchmarkTask`, what was asked), pages/ to read, and the paper's tables as tables.md and
    tables.tex.
    """
    cfg, own = ctx.cfg, ctx.cfg.evaluate
    questions = load_questions(ctx)
    judging, held_out, published = Judging(ctx), [], BenchmarkScores(ctx)
    for name, tasks in questions.items():
        if name != HELD_OUT:
            (ctx.work / "tasks").mkdir(exist_ok=True)
            write_jsonl(ctx.work / "tasks" / f"{name}.jsonl", tasks)
    for model, hf_path in own.models.items():
        for setting in own.settings:
            for name, tasks in questions.items():
                ask = Ask(
                    model_dir=ctx.inputs[f"models.{model}"],
                    model=hf_path,
                    samples=setting.samples,
                    temperature=setting.temperature,
                    # Models are compared on the same draws, settings on their own.
                    purpose=f"evaluate t{setting.temperature:g}",
                    label=_label(name, model, setting.temperature),
                )
                log = log_file(ctx.work, name, model, setting.temperature)
                judging.write(tasks, ask, log)
                if not tasks:
                    continue  # an empty shard
                if name == HELD_OUT:
                    figures = score(read_jsonl(log, Verdict), own.path_modes)
                    held_out.append({"model": model, **dict(setting), **figures})
                    judging.count_unasked(figures["summary"]["statuses"])
                    ctx.console.line(f"  {ask.label}: {_words(figures)}")
                else:
                    run_scored = published.add(name, model, setting, log, ask.label)
                    judging.count_unasked(run_scored.result.statuses)
    published.write()
    count = len(questions.get(HELD_OUT, ()))
    scores = {"benchmark": HELD_OUT, "tasks": count, "scores": held_out, "benchmarks": published.scores}
    write_json(ctx.work / "scores.json", scores)
    report = summary.build(held_out, list(own.models), Path(cfg.runs_dir), dict(own.models), own.note)
    report["benchmarks"] = published.report
    write_json(ctx.work / "report.json", report)
    write_text(ctx.work / "report.md", summary.as_markdown(report))
    return {"tasks": count, "models": list(own.models), "report": report}


def log_file(work: Path, benchmark: str, model: str, temperature: float) -> Path:
    """Where the judgements of a model at a temperature are."""
    folder = work / "verdicts" if benchmark == HELD_OUT else work / "verdicts" / benchmark
    return folder / f"{model}_t{temperature:g}.jsonl"


def _label(benchmark: str, model: str, temperature: float) -> str:
    where = "" if benchmark == HELD_OUT else f"{benchmark}, "
    return f"{where}{model}, T={temperature:g}"


def _words(figures: dict[str, Any]) -> str:
    accuracy = figures["accuracy"]
    return (
        f"accuracy {accuracy['value']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}], "
        f"format {figures['format']:.3f}, {figures['mean_tokens']:.0f} tokens"
    )


def score(verdicts: Iterator[Verdict], path_modes: str | None) -> dict[str, Any]:
    """The figures of one model at one setting on the held-out tasks.

    Args:
        verdicts: its judgements.
        path_modes: name of a classifier of paths, or None.

    Returns:
        `accuracy` (with interval), `format` (share with a readable verdict), `mean_tokens`, `position_a`
        (share of verdicts that are A), `modes` (share of each kind of path; None without a classifier), and
        `summary`, all that `summarize_verdicts` says.
    """
    kept = list(verdicts)
    whole = summarize_verdicts(kept)
    modes = None
    if path_modes is not None:
        counts = Counter(_PATH_MODES[path_modes](verdict.text) for verdict in kept)
        modes = {name: count / len(kept) for name, count in counts.most_common()}
    return {
        "accuracy": whole["accuracy"],
        "format": 1 - whole["no_verdict"] / len(kept),
        "mean_tokens": whole["tokens"]["mean"],
        "position_a": whole["position_a"]["value"],
        "modes": modes,
        "summary": whole,
    }

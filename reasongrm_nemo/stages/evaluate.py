# SPDX-License-Identifier: Apache-2.0
"""Evaluate: runs every model at each setting on held-out tasks (as in Table 2) and on benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reasongrm_nemo.files.writes import write_json, write_text
from reasongrm_nemo.report import summary
from reasongrm_nemo.run.stage import StageContext
from reasongrm_nemo.stages.benchmark_scores import BenchmarkScores
from reasongrm_nemo.stages.held_out_scores import HeldOutScores
from reasongrm_nemo.stages.judges import Setting, judges
from reasongrm_nemo.stages.judging import Judging
from reasongrm_nemo.stages.questions import HELD_OUT, Questions


def run(ctx: StageContext) -> dict[str, Any]:
    """Write verdicts/ (`Verdict`), scores.json, report.json and report.md.

    For held-out tasks, writes verdicts/<model>_t<temperature>.jsonl.  For benchmarks, writes the same files
    in verdicts/<benchmark>/, the tasks shown to the judges in tasks/ (`BenchmarkTask`), pages for people in
    pages/, and the paper's tables as tables.md and tables.tex.
    """
    cfg, options = ctx.cfg, ctx.cfg.evaluate
    models = judges(cfg, ctx.inputs)
    settings = [Setting.of(entry) for entry in options.settings]
    questions = Questions(ctx, list(models.values()))
    judging, held_out, published = Judging(ctx, questions), HeldOutScores(ctx), BenchmarkScores(ctx)
    for model in models.values():
        for setting in settings:
            for name in questions.names:
                log, label = judging.judge(name, model, setting)
                if not questions.of(name, model.settings.template):
                    continue  # an empty shard
                if name == HELD_OUT:
                    statuses = held_out.add(model, setting, log, label)
                else:
                    asked = questions.file(name, model.settings.template)
                    statuses = published.add(name, model, setting, log, label, asked)
                judging.count_unasked(statuses)
    published.add_given()
    published.write_tables()
    count = len(questions.held_out or ())
    scores = {"benchmark": HELD_OUT, "tasks": count, "scores": held_out.scores}
    write_json(ctx.work / "scores.json", scores | {"benchmarks": published.scores()})
    made_of = {name: model.given for name, model in models.items()}
    report = summary.build_summary(held_out.scores, list(models), Path(cfg.runs_dir), made_of, options.note)
    report["benchmarks"] = published.report()
    write_json(ctx.work / "report.json", report)
    write_text(ctx.work / "report.md", summary.summary_as_markdown(report))
    return {"tasks": count, "models": list(models), "report": report}

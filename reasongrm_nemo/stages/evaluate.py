# SPDX-License-Identifier: Apache-2.0
"""Evaluate: every model on the same held-out tasks, at each temperature, side by side (Table 2's form)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reasongrm_nemo.data import JudgeTask, ReasoningPath, Verdict, read_jsonl, write_jsonl
from reasongrm_nemo.data.tiny_judge import mode as tiny_mode
from reasongrm_nemo.evaluation import summarize_verdicts
from reasongrm_nemo.files import write_json, write_text
from reasongrm_nemo.report import summary
from reasongrm_nemo.stages.context import StageContext
from reasongrm_nemo.stages.sampling import Ask, sample_paths
from reasongrm_nemo.stages.tasks import load_tasks

BENCHMARK = "held_out"
_PATH_MODES = {"tiny_judge": tiny_mode}


def run(ctx: StageContext) -> dict[str, Any]:
    """Write verdicts/<model>_t<temperature>.jsonl (`Verdict`), scores.json, report.json and report.md."""
    cfg, own = ctx.cfg, ctx.cfg.evaluate
    tasks = load_tasks(ctx.inputs["tasks"], 0, own.max_tasks)
    (ctx.work / "verdicts").mkdir(exist_ok=True)
    scores = []
    for model, hf_path in own.models.items():
        for setting in own.settings:
            name = f"{model}_t{setting.temperature:g}"
            file = ctx.work / "verdicts" / f"{name}.jsonl"
            if not file.exists():
                ask = Ask(
                    model_dir=ctx.inputs[f"models.{model}"],
                    model=hf_path,
                    samples=setting.samples,
                    temperature=setting.temperature,
                    # Models are compared on the same draws, settings on their own.
                    purpose=f"evaluate t{setting.temperature:g}",
                    label=f"{model}, T={setting.temperature:g}",
                )
                _judge(ctx, tasks, ask, file)
            figures = score(read_jsonl(file, Verdict), own.path_modes)
            scores.append({"model": model, **dict(setting), **figures})
            accuracy = figures["accuracy"]
            ctx.console.line(
                f"  {model}, T={setting.temperature:g}: accuracy {accuracy['value']:.3f} "
                f"[{accuracy['low']:.3f}, {accuracy['high']:.3f}], format {figures['format']:.3f}, "
                f"{figures['mean_tokens']:.0f} tokens"
            )
    write_json(ctx.work / "scores.json", {"benchmark": BENCHMARK, "tasks": len(tasks), "scores": scores})
    report = summary.build(scores, list(own.models), Path(cfg.runs_dir), dict(own.models), own.note)
    write_json(ctx.work / "report.json", report)
    write_text(ctx.work / "report.md", summary.as_markdown(report))
    return {"tasks": len(tasks), "models": list(own.models), "report": report}


def _judge(ctx: StageContext, tasks: Sequence[JudgeTask], ask: Ask, file: Path) -> None:
    sampled = file.with_suffix(".paths")
    sample_paths(ctx, tasks, ask, sampled)
    by_id = {task.id: task for task in tasks}
    write_jsonl(file, (to_verdict(path, by_id[path.task_id]) for path in read_jsonl(sampled, ReasoningPath)))
    sampled.unlink()


def to_verdict(path: ReasoningPath, task: JudgeTask) -> Verdict:
    """A sampled path as a judgement of the benchmark."""
    return Verdict(
        benchmark=BENCHMARK,
        subset=task.source,
        item_id=task.pair_id,
        cell=None,
        order=task.order,
        verdict=path.verdict,
        correct=path.correct,
        tie=False,
        parse_status=path.parse_status,
        tokens=path.reasoning_tokens + path.answer_tokens,
        text=path.text,
    )


def score(verdicts: Iterator[Verdict], path_modes: str | None) -> dict[str, Any]:
    """The figures of one model at one setting.

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

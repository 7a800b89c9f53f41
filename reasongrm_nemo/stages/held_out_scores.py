# SPDX-License-Identifier: Apache-2.0
"""Scores an evaluation's held-out tasks: every model at every setting (as in Table 2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reasongrm_nemo.data import Verdict, read_jsonl
from reasongrm_nemo.demo.tiny_judge import mode as tiny_mode
from reasongrm_nemo.evaluation import summarize_verdicts
from reasongrm_nemo.run.stage import StageContext
from reasongrm_nemo.stages.judges import Judge, Setting

_PATH_MODES = {"tiny_judge": tiny_mode}


class HeldOutScores:
    """Collects the held-out scores of a stage.

    Attributes:
        scores: one entry per model and setting; JSON-ready.
    """

    def __init__(self, ctx: StageContext) -> None:
        self._ctx = ctx
        self.scores: list[dict[str, Any]] = []

    def add(self, model: Judge, setting: Setting, log: Path, label: str) -> dict[str, int]:
        """Score a log; return the number of verdicts by parse status."""
        figures = score_held_out(read_jsonl(log, Verdict), self._ctx.cfg.evaluate.path_modes)
        sampling, samples = model.drawn(setting)
        drawn = {"setting": setting.words, "sampling": sampling.words(), "samples": samples}
        self.scores.append({"model": model.name, **drawn, "temperature": sampling.temperature, **figures})
        accuracy = figures["accuracy"]
        self._ctx.console.line(
            f"  {label}: accuracy {accuracy['value']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}], "
            f"format {figures['format']:.3f}, {figures['mean_tokens']:.0f} tokens"
            f"{_cut_words(figures['truncated'])}"
        )
        return figures["summary"]["statuses"]  # type: ignore[no-any-return]


def _cut_words(truncated: float | None) -> str:
    return f", {100 * truncated:.1f} % cut at the limit" if truncated else ""


def score_held_out(verdicts: Iterator[Verdict], path_modes: str | None) -> dict[str, Any]:
    """Score one model at one setting.

    Args:
        verdicts: the model's verdicts.
        path_modes: name of a classifier of paths, or None.

    Returns:
        `accuracy` (with interval), `format` (share with a readable verdict), `truncated` (share of truncated
        answers; None if the log does not say), `mean_tokens`, `position_a` (share of verdicts that are A),
        `modes` (share of each kind of path; None without a classifier), and `summary`, the result of
        `summarize_verdicts`.
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
        "truncated": whole["truncated"],
        "mean_tokens": whole["tokens"]["mean"],
        "position_a": whole["position_a"]["value"],
        "modes": modes,
        "summary": whole,
    }

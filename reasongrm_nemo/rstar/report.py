# SPDX-License-Identifier: Apache-2.0
"""What the filter saw and chose, in figures: the section 3.3 selection beside its alternatives."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from reasongrm_nemo.data.records import ReasoningPath
from reasongrm_nemo.rstar.score import score_sums
from reasongrm_nemo.rstar.select import ineligible, ranking

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

HESITATION = re.compile(
    r"\b(?:wait|hmm+|hold on|on second thought|let me (?:re-?check|double[- ]check|check again|think again)"
    r"|not (?:entirely |quite |so )?sure|am i sure|actually|alternatively)\b",
    re.IGNORECASE,
)
"""Words of second thoughts.  A crude count, for comparing sets of paths written by one model."""


class PathFacts(NamedTuple):
    """What the report keeps of a path; the texts would not fit in memory for a full run."""

    task_id: str
    sample: int
    correct: bool
    ineligible: str | None
    length: int
    hesitations: int
    r_star: float
    self_consistency: float
    validity: float


def count_hesitations(text: str) -> int:
    """How many markers of hesitation a path holds."""
    return len(HESITATION.findall(text))


def selection_report(paths: Iterable[ReasoningPath], seed: int = 0) -> dict[str, Any]:
    """Figures on a set of paths and on what each strategy chooses from it.

    Args:
        paths: all paths of the generation, in any order; read once, texts not kept.
        seed: the run's seed, for the random choice (the same as `select_paths` makes).

    Returns:
        JSON-ready: `tasks`, `tasks_without_right_path` (wrong in every sample), `tasks_without_eligible_path`
        and `tasks_with_one_eligible_path` (where no strategy has a choice), `paths`, `right_paths`,
        `ineligible_paths` by reason, `sets` (a set of paths -> its figures: R*, self-consistency, validity,
        tokens as quantiles and mean, hesitations a path), `agreement` of R*'s choice with the others' over
        tasks with a choice, and `r_star_length_correlation` within tasks.
    """
    ranks = {name: ranking(name, seed) for name in ("r_star", "random", "shortest")}
    best: dict[str, dict[str, tuple[tuple[float, ...], PathFacts]]] = {name: {} for name in ranks}
    facts: list[PathFacts] = []
    for path in paths:
        fact = _facts(path)
        facts.append(fact)
        if fact.ineligible:
            continue
        for name, key in ranks.items():
            rank = key(path)
            held = best[name].get(path.task_id)
            if held is None or rank < held[0]:
                best[name][path.task_id] = (rank, fact)
    chosen = {name: {task: fact for task, (_, fact) in held.items()} for name, held in best.items()}
    eligible = [fact for fact in facts if not fact.ineligible]
    choices = Counter(fact.task_id for fact in eligible)
    contested = [task for task, count in choices.items() if count > 1]
    rejected = [fact for fact in eligible if chosen["r_star"][fact.task_id] is not fact]
    tasks = {fact.task_id for fact in facts}
    return {
        "tasks": len(tasks),
        "tasks_without_right_path": len(tasks - {fact.task_id for fact in facts if fact.correct}),
        "tasks_without_eligible_path": len(tasks) - len(choices),
        "tasks_with_one_eligible_path": len(choices) - len(contested),
        "paths": len(facts),
        "right_paths": sum(fact.correct for fact in facts),
        "ineligible_paths": dict(Counter(fact.ineligible for fact in facts if fact.ineligible).most_common()),
        "sets": {
            "eligible": _figures(eligible),
            "chosen_r_star": _figures(list(chosen["r_star"].values())),
            "chosen_random": _figures(list(chosen["random"].values())),
            "chosen_shortest": _figures(list(chosen["shortest"].values())),
            "rejected_by_r_star": _figures(rejected),
            "wrong": _figures([fact for fact in facts if not fact.correct], scored=False),
        },
        "agreement": {
            name: _share([chosen[name][task] is chosen["r_star"][task] for task in contested])
            for name in ("random", "shortest")
        },
        "r_star_length_correlation": _within_task_correlation(eligible),
    }


def _facts(path: ReasoningPath) -> PathFacts:
    reason = ineligible(path)
    score = (0.0, 0.0, 0.0) if reason else score_sums(path)
    return PathFacts(
        task_id=path.task_id,
        sample=path.sample,
        correct=path.correct,
        ineligible=reason,
        length=path.reasoning_tokens + path.answer_tokens,
        hesitations=count_hesitations(path.text),
        r_star=score[0],
        self_consistency=score[1],
        validity=score[2],
    )


def _figures(facts: Sequence[PathFacts], scored: bool = True) -> dict[str, Any]:
    names = ("r_star", "self_consistency", "validity", "length") if scored else ("length",)
    out: dict[str, Any] = {"paths": len(facts)}
    if facts:
        for name in names:
            out[name] = _distribution([getattr(fact, name) for fact in facts])
        out["hesitations_per_path"] = float(np.mean([fact.hesitations for fact in facts]))
        out["paths_with_hesitation"] = float(np.mean([fact.hesitations > 0 for fact in facts]))
    return out


def _distribution(values: Sequence[float]) -> dict[str, float]:
    array = np.asarray(values, dtype=np.float64)
    out = {f"q{quantile:g}": float(np.quantile(array, quantile)) for quantile in QUANTILES}
    return {**out, "mean": float(array.mean())}


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def _within_task_correlation(facts: Sequence[PathFacts]) -> float | None:
    """Pearson's r of R* and length after taking each task's means away; None where nothing varies."""
    groups: dict[str, list[PathFacts]] = {}
    for fact in facts:
        groups.setdefault(fact.task_id, []).append(fact)
    parts = []
    for group in groups.values():
        if len(group) > 1:
            table = np.array([(fact.r_star, fact.length) for fact in group], dtype=np.float64)
            parts.append(table - table.mean(axis=0))
    if not parts:
        return None
    score, length = np.concatenate(parts).T
    scale = float(np.sqrt((score @ score) * (length @ length)))
    return float(score @ length) / scale if scale > 0.0 else None

# SPDX-License-Identifier: Apache-2.0
"""Text output of plans, pipelines, layouts, simulations and rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from reasongrm_nemo.plan import Plan
from reasongrm_nemo.plan.rollout_study import Study
from reasongrm_nemo.plan.rollouts.lengths import Fit
from reasongrm_nemo.plan.serving import GIB
from reasongrm_nemo.plan.sweep import Row
from reasongrm_nemo.plan.times import StageTime
from reasongrm_nemo.report.summary import aligned
from reasongrm_nemo.run.console import duration

if TYPE_CHECKING:
    from reasongrm_nemo.plan.simulation.compare import Comparison, Line


def as_text(plan: Plan, recipe: DictConfig) -> str:
    """The plan of a stage."""
    cluster, planned = recipe.cluster, recipe.plan
    unit = "GPU" if cluster.platform == "gpu" else "rank"
    size = f"{plan.parameters / 1e9:.3f} B" if plan.parameters >= 1e8 else f"{plan.parameters / 1e6:.3f} M"
    lines = [f"{plan.recipe} ({plan.stage}): {size} parameters, {_layout(plan, recipe)}"]
    if plan.ranks:
        states = vars(plan.ranks[0].states)
        head = ["GiB a rank", "layers", "parameters", *states, "activations", "peak"]
        rows = [
            [
                f"stage {rank.stage}",
                str(rank.layers),
                f"{rank.count.total:,}",
                *map(_gib, vars(rank.states).values()),
                _gib(sum(rank.activations.values())),
                _gib(rank.peak),
            ]
            for rank in plan.ranks
        ]
        lines += ["", *aligned(head, rows)]
        worst = max(plan.ranks, key=lambda rank: rank.peak)
        lines += [f"activations of stage {worst.stage}: {_listed(worst.activations)}", ""]
    words: list[tuple[str, str]] = []
    if plan.moments:
        room = planned.device_memory_gib - planned.reserve_gib
        words.append(("a GPU holds", f"{_listed(plan.moments)}; {room:.1f} GiB are available"))
    if plan.server is not None and (plan.moments or cluster.platform == "cpu"):
        words.append(("servers", _servers(plan, recipe, unit)))
    words.append(("host memory", f"{_listed(plan.host)} GiB a node"))
    if plan.disk:
        words.append(("disk", f"{_listed(plan.disk)} GiB, {sum(plan.disk.values()) / GIB:,.0f} in all"))
    if plan.refit:
        words.append(("a refit", f"{plan.refit / 1e9:.3g} GB to each server"))
    words.append(("time", _time(plan)))
    lines += [f"{name:<12}  {text}" for name, text in words]
    return "\n".join(lines)


def _layout(plan: Plan, recipe: DictConfig) -> str:
    cluster = recipe.cluster
    what = f"{plan.devices} {'GPUs' if cluster.platform == 'gpu' else 'CPU ranks'}"
    if not plan.ranks:
        return what
    parallel = cluster.tensor_parallel * cluster.pipeline_parallel
    what += f", TP{cluster.tensor_parallel} × PP{cluster.pipeline_parallel} × DP{plan.devices // parallel}"
    what += ", sequence parallel" if cluster.sequence_parallel else ""
    budget = recipe[recipe.stage].max_tokens_per_micro_batch
    return f"{what}, recomputation {recipe.model.recompute}, micro-batches of {budget:,} tokens"


def _servers(plan: Plan, recipe: DictConfig, unit: str) -> str:
    server = plan.server
    assert server is not None
    longest = recipe.model.max_model_len
    mean = round(recipe.plan.prompt_tokens + recipe.plan.responses.median)
    text = f"{plan.served // server.workers} of {server.workers} {unit}{'s' if server.workers > 1 else ''}"
    if plan.devices > plan.served and recipe.cluster.platform == "gpu":
        text += f" ({plan.devices - plan.served} of {plan.devices} GPUs are unused)"
    text += f"; weights {_gib(server.weights)} GiB, KV cache {_gib(server.kv_cache)} GiB a {unit}"
    text += f"; each runs {server.sequences(longest)} sequences of {longest:,} tokens at once"
    return text + (f", or {server.sequences(mean)} of {mean:,}" if mean < longest else "")


def _time(plan: Plan) -> str:
    time = plan.time
    if not isinstance(time, StageTime):
        return time
    parts = []
    if time.rollouts and time.steps > 1:
        parts.append(f"rollouts {duration(time.rollouts)} (90 % after {duration(time.slowest)})")
    others = {"training": time.training, "refit": time.refit, "offload": time.offload}
    parts += [f"{name} {duration(seconds)}" for name, seconds in others.items() if seconds]
    step = (
        f"{time.steps} steps of {duration(time.seconds / time.steps)}: {', '.join(parts)}; " if parts else ""
    )
    return f"{step}{duration(time.seconds)} in all, {time.device_hours:,.0f} GPU-hours (from stated rates)"


def pipeline_text(plans: Sequence[tuple[str, Plan | None]]) -> str:
    """A table of a folder's stages, with totals."""
    head = ["stage", "GPUs", "GiB a GPU", "GiB on disk", "time", "GPU-hours", "does not fit"]
    made = [plan for _, plan in plans if plan is not None]
    known = [plan.time for plan in made if isinstance(plan.time, StageTime)]
    unknown = {plan.time for plan in made if isinstance(plan.time, str) and not plan.misfits}
    rows = [[name, *(["-"] * 5 + [""] if plan is None else _stage_row(plan))] for name, plan in plans]
    seconds, disk = sum(time.seconds for time in known), sum(sum(plan.disk.values()) for plan in made)
    times = [duration(seconds), f"{sum(time.device_hours for time in known):,.0f}"]
    if len(known) < len(made):  # a total without the unknown times is a lower bound
        times = [f"over {time}" if seconds else "?" for time in times]
    rows.append(["in all", "", "", f"{disk / GIB:,.0f}", *times, ""])
    return "\n".join([*aligned(head, rows, left=(0, 6)), *(f"? {why}" for why in sorted(unknown))])


def _stage_row(plan: Plan) -> list[str]:
    most, time = max(plan.moments.values(), default=0), ["?", "?"]
    if isinstance(plan.time, StageTime):
        time = [duration(plan.time.seconds), f"{plan.time.device_hours:,.0f}"]
    disk = f"{sum(plan.disk.values()) / GIB:,.0f}"
    wrong = ", ".join(misfit.key for misfit in plan.misfits)
    return [str(plan.devices), _gib(most) if most else "-", disk, *time, wrong]


def sweep_text(rows: Sequence[Row], recipe: DictConfig, axes: Sequence[str]) -> str:
    """A table of layouts; the recipe's is marked."""
    cluster = recipe.cluster
    recipe_layout = (cluster.tensor_parallel, cluster.pipeline_parallel)
    head = ["layout", "states", "activations", "peak GiB", "training", "does not fit"]
    table = [
        [
            f"TP{row.tensor} × PP{row.pipeline} × DP{row.data}"
            + (" (the recipe's)" if (row.tensor, row.pipeline) == recipe_layout else ""),
            *map(_gib, (row.states, row.activations, row.peak)),
            duration(row.training) if row.training is not None else "-",
            row.misfit or "",
        ]
        for row in rows
    ]
    lines = aligned(head, table, left=(0, 5))
    if "cp" in axes:
        lines += ["", "CP is 1 throughout: this trainer does not cut micro-batches along the sequence."]
    return "\n".join(lines)


def _gib(size: float) -> str:
    value = size / GIB
    return f"{value:.1f}" if value >= 0.1 else f"{value:.3f}"


def _listed(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_gib(size)}" for name, size in sizes.items())


def comparison_text(comparisons: Sequence[Comparison]) -> str:
    """Plan and simulation side by side, a line per component of each rank."""
    head = ["simulated rank", "component", "plan", "measured", "difference"]
    rows = []
    for comparison in comparisons:
        label = f"{comparison.report.rank} (stage {comparison.stage})"
        for line in comparison.lines:
            rows.append([label, line.name, *_amounts(line), f"{100 * line.difference:+.2f} %"])
            label = ""
    lines = aligned(head, rows, left=(0, 1))
    worst = _worst(comparisons)
    seconds = sum(comparison.report.build_s + comparison.report.step_s for comparison in comparisons)
    lines += [
        "",
        f"Largest difference: {_off(worst)}. Memory in GiB; one "
        "micro-batch's operations in TFLOP; gradients and optimizer states are arithmetic on both sides. "
        f"{seconds:.0f} s of building and stepping.",
    ]
    return "\n".join(lines)


def check_text(comparisons: Sequence[Comparison], recipe: DictConfig) -> str:
    """One line: how far the plan is from one micro-batch through the real model code."""
    ends = "the first and last pipeline stage" if len(comparisons) > 1 else "one rank"
    how = f"one micro-batch of {recipe.model.max_model_len:,} tokens on fake tensors, {ends}"
    worst = _worst(comparisons)
    if abs(worst.worst.difference) > _AGREES:
        return (
            f"THE PLAN IS OFF by {_off(worst)} against the model's own code ({how}); trust the figures of "
            "--simulate instead."
        )
    return f"checked against the model's own code ({how}): no component off by more than {_off(worst)}"


_AGREES = 0.05


def _worst(comparisons: Sequence[Comparison]) -> Comparison:
    return max(comparisons, key=lambda comparison: abs(comparison.worst.difference))


def _off(comparison: Comparison) -> str:
    line = comparison.worst
    return f"{abs(100 * line.difference):.2f} % ({line.name} of stage {comparison.stage})"


def _amounts(line: Line) -> list[str]:
    if line.name == "parameters":
        return [f"{line.reckoned:,}", f"{line.measured:,}"]
    scale = 1e12 if line.name == "FLOPs" else GIB
    return [f"{line.reckoned / scale:,.3f}", f"{line.measured / scale:,.3f}"]


def comparison_data(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """The comparisons as JSON values."""
    return [
        {
            "rank": comparison.report.rank,
            "stage": comparison.stage,
            "worst": abs(comparison.worst.difference),
            "components": {
                line.name: {"plan": line.reckoned, "measured": line.measured, "difference": line.difference}
                for line in comparison.lines
            },
        }
        for comparison in comparisons
    ]


def rollouts_text(study: Study, recipe: DictConfig, fitted: Fit | None) -> str:
    """Simulated steps, and ways to shorten them."""
    grpo, servers = recipe.grpo, study.servers
    stated = recipe.plan.responses
    if fitted is None:
        source = (
            f"lognormal, median {stated.median:,.0f}, sigma {stated.sigma:g}, alike {stated.alike:g} (stated)"
        )
    else:
        near = fitted.lognormal
        source = (
            f"drawn from {fitted.responses:,} paths, {fitted.cut:.1%} cut; the nearest lognormal has "
            f"median {near.median:,.0f}, sigma {near.sigma:.2f}, alike {near.alike:.2f}, and is off by "
            f"{fitted.distance:.3f}"
        )
    answers = grpo.prompts_per_step * grpo.samples_per_prompt
    tail = 1 - study.done[0.9] / study.done[1.0]
    slots, rate = min(servers.count * servers.slots, answers), study.tokens_per_second
    done = (f"{share:.0%} after {duration(time)}" for share, time in study.done.items())
    lines = [
        f"{recipe.name}: {study.steps} simulated steps of {grpo.prompts_per_step} × "
        f"{grpo.samples_per_prompt} answers",
        f"servers      {servers.count} of {recipe.rollout.tensor_parallel} GPUs, each {servers.slots} slots "
        f"and {servers.cache:,} tokens of KV cache",
        f"lengths      {source}; mean {study.tokens:,.0f}, a step's longest {study.longest:,.0f}",
        f"answers      {', '.join(done)}",
        f"tail         the last tenth of the answers takes {tail:.0%} of the time; on average "
        f"{study.running:.0f} of {slots} slots run, {rate:,.0f} tokens/s; "
        f"servers idle for {study.idle:.0%} of it",
        f"training     {duration(study.training)}, refit and offload included",
        "",
    ]
    head = ["way", "a step", "saves", "groups lost", "length of what is kept"]
    first = study.choices[0].step
    rows = [
        [
            choice.name,
            duration(choice.step),
            f"{1 - choice.step / first:.0%}",
            f"{choice.lost:.1%}",
            f"{choice.length:.2f}",
        ]
        for choice in study.choices
    ]
    lines += aligned(head, rows)
    lines += [
        "",
        "A lag needs separate GPUs for servers and trainer (no rollout.sleep); equal speeds are assumed.",
    ]
    return "\n".join(lines)

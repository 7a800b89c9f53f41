# SPDX-License-Identifier: Apache-2.0
"""Turns a benchmark's items into judge tasks, and judged tasks into rows of the verdict log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from reasongrm_nemo.data.records import JudgeTask, ReasoningPath, Verdict
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.data.tasks import make_tasks, prompt_key
from reasongrm_nemo.evaluation.items import Item
from reasongrm_nemo.judge import Template

TOO_LONG, REFUSED = "prompt_too_long", "prompt_refused"
"""Parse statuses of a task that was not sampled because its prompt does not fit; counts as no verdict."""


class BenchmarkTask(JudgeTask, frozen=True):
    """A judge task for a pair of a benchmark; for the fields see `Verdict`."""

    benchmark: str
    subset: str
    item_id: str
    cell: str | None
    turns: int | None = None
    chosen_chars: int | None = None
    rejected_chars: int | None = None
    prompt_id: str | None = None

    @property
    def item_key(self) -> str:
        """The item's name, unique over all benchmarks; used for sharding and drawing items."""
        return f"{self.benchmark}/{self.subset}/{self.item_id}"


def draw_items(items: Sequence[Item], count: int | None, seed: int) -> list[Item]:
    """At most `count` items (None: all), drawn by a hash of the seed and the item, in their order."""
    if count is None or count >= len(items):
        return list(items)
    drawn = sorted(items, key=lambda item: (derive_seed(seed, "benchmark items", item.key), item.key))
    keep = {item.key for item in drawn[:count]}
    return [item for item in items if item.key in keep]


def benchmark_tasks(
    items: Iterable[Item],
    seed: int,
    template: Template,
    both_orders: bool,
    special_tokens: Iterable[str],
) -> Iterator[BenchmarkTask]:
    """The tasks for the items' pairs, in the same order; arguments as for `data.tasks.make_tasks`.

    The answer shown first depends on a hash of the seed, the item and the cell.
    """
    tokens = tuple(special_tokens)
    for item in items:
        for cell, pair in item.pairs.items():
            named = replace(pair, id=item.key if cell is None else f"{item.key}/{cell}", source=item.subset)
            for task in make_tasks([named], seed, template, both_orders, tokens):
                yield BenchmarkTask(
                    **task.to_dict(),
                    benchmark=item.benchmark,
                    subset=item.subset,
                    item_id=item.item_id,
                    cell=cell,
                    turns=sum(turn["role"] == "user" for turn in pair.prompt),
                    chosen_chars=len(pair.chosen),
                    rejected_chars=len(pair.rejected),
                    prompt_id=prompt_key(pair.prompt),
                )


def held_out_task(task: JudgeTask, benchmark: str) -> BenchmarkTask:
    """A task outside the published benchmarks: its pair is the item, its source the subset."""
    return BenchmarkTask(
        id=task.id,
        pair_id=task.pair_id,
        source=task.source,
        messages=task.messages,
        label=task.label,
        order=task.order,
        benchmark=benchmark,
        subset=task.source,
        item_id=task.pair_id,
        cell=None,
    )


def to_verdict(
    task: BenchmarkTask,
    path: ReasoningPath,
    prompt_tokens: int | None = None,
    policy: str | None = None,
    drawn: Mapping[str, Any] | None = None,
) -> Verdict:
    """Turns a sampled path into a judgement of the benchmark.

    Args:
        task: the task.
        path: the response.
        prompt_tokens: length of the prompt.
        policy: the parsing policy.
        drawn: the sampling parameters, `Verdict`'s fields from `temperature` on.
    """
    return replace(
        _verdict(task, prompt_tokens),
        verdict=path.verdict,
        correct=path.correct,
        parse_status=path.parse_status,
        tokens=path.reasoning_tokens + path.answer_tokens,
        text=path.text,
        sample=path.sample,
        finish_reason=path.finish_reason,
        opened=path.opened,
        policy=policy,
        **(drawn or {}),
    )


def unasked(task: BenchmarkTask, sample: int, prompt_tokens: int | None) -> Verdict:
    """The row of a task whose prompt is too long; `prompt_tokens` None: the chat template refused it."""
    status = REFUSED if prompt_tokens is None else TOO_LONG
    return replace(_verdict(task, prompt_tokens), sample=sample, parse_status=status)


def _verdict(task: BenchmarkTask, prompt_tokens: int | None) -> Verdict:
    """The row of a task without a response."""
    return Verdict(
        benchmark=task.benchmark,
        subset=task.subset,
        item_id=task.item_id,
        cell=task.cell,
        order=task.order,
        verdict=None,
        correct=False,
        tie=False,
        parse_status=TOO_LONG,
        tokens=0,
        text="",
        turns=task.turns,
        chosen_chars=task.chosen_chars,
        rejected_chars=task.rejected_chars,
        prompt_tokens=prompt_tokens,
        prompt_id=task.prompt_id,
    )

# SPDX-License-Identifier: Apache-2.0
"""The properties of each stage, stated once; the rest of the package never asks for a stage by name.

A stage consists of `stages/<stage>.py` with `run(ctx)`, `recipes/base/<stage>.yaml`, and its kind below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """The properties of a stage.

    Attributes:
        blocks: the recipe blocks that the result depends on; the last has the stage's name.
        trains: the stage runs trainer ranks, with checkpoints and trackers.
        paths: keys of the stage's block that hold inputs: a path, a list of paths, or a mapping from names.
        limits: keys of the stage's block that limit how many records are used; null uses all.
        distinct: several samples of a prompt must differ, so greedy sampling is refused.
        makes_prompts: the stage builds prompts from the recipe's template; others read finished tasks.
        after_shards: inputs and keys that matter only when shards are merged; None: the stage has no shards.
    """

    blocks: tuple[str, ...]
    trains: bool = False
    paths: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    distinct: bool = False
    makes_prompts: bool = False
    after_shards: tuple[str, ...] | None = None

    @property
    def samples(self) -> bool:
        """Whether the stage uses rollout servers."""
        return "rollout" in self.blocks

    @property
    def on_policy(self) -> bool:
        """Whether the stage trains on rollouts of its policy, with refits and log-prob comparisons."""
        return self.trains and self.samples

    @property
    def runs_model(self) -> bool:
        """Whether the stage runs the model, which must then fit the recipe; others may use its tokenizer."""
        return self.trains or self.samples

    @property
    def sharded(self) -> bool:
        """Whether the stage can be split into shards: its block has the keys `shard` and `shards`."""
        return self.after_shards is not None


_SAMPLING = ("model", "judge", "rollout", "cluster")
KINDS: dict[str, Kind] = {
    "prepare": Kind(
        ("model", "judge", "prepare"),
        paths=("source", "decontaminate"),
        limits=("max_tasks", "max_validation"),
        makes_prompts=True,
    ),
    "grpo": Kind((*_SAMPLING, "grpo"), trains=True, distinct=True),
    "generate": Kind(
        (*_SAMPLING, "generate"),
        paths=("shards", "scorer.hf_path"),
        limits=("max_tasks",),
        distinct=True,
        after_shards=(),
    ),
    "filter": Kind(("judge", "filter")),
    "sft": Kind(("model", "judge", "cluster", "sft"), trains=True),
    "mine": Kind(
        (*_SAMPLING, "mine"),
        paths=("shards",),
        limits=("max_tasks",),
        after_shards=("mine.bands", "mine.drop_never_right", "mine.max_per_source", "input examples"),
    ),
    "evaluate": Kind(
        (*_SAMPLING, "evaluate"),
        paths=("shards", "models", "logs"),
        limits=("max_tasks", "max_items"),
        after_shards=(
            "evaluate.models",  # their order; each model is an input too, and its sampling must be the same
            "evaluate.logs",
            "evaluate.policy",
            "evaluate.path_modes",
            "evaluate.note",
            "input logs",
        ),
    ),
}


def kind_of(recipe: Mapping[str, Any]) -> Kind:
    """The kind of a checked recipe's stage."""
    return KINDS[recipe["stage"]]

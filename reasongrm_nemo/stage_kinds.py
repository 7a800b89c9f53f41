# SPDX-License-Identifier: Apache-2.0
"""What a stage is, stated once; the rest of the package asks here, and never for a stage by name.

A stage is `stages/<stage>.py` with `run(ctx)`, `recipes/base/<stage>.yaml`, and its kind below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """What a stage reads and does.

    Attributes:
        blocks: of the recipe, those that its result depends on; the last has the stage's name.
        trains: runs trainer ranks, with checkpoints and trackers.
        paths: keys of its block that hold an input: a path, a list of paths, or a mapping from names.
        limits: keys of its block that take a part of the records; null takes all.
        distinct: its samples of a prompt must differ, so greedy sampling is refused.
        makes_prompts: from the recipe's template, whatever its inputs; other stages read finished tasks.
        after_shards: None, or the stage can be cut into shards, and these inputs and keys count only once
            they are put together.
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
        """Asks rollout servers."""
        return "rollout" in self.blocks

    @property
    def on_policy(self) -> bool:
        """Trains on rollouts of the very model: its servers are refitted, and log-probs of both compared."""
        return self.trains and self.samples

    @property
    def runs_model(self) -> bool:
        """Computes with the model, which then has to fit the recipe; others need its tokenizer at most."""
        return self.trains or self.samples

    @property
    def sharded(self) -> bool:
        """Can be cut into shards: its block has the keys `shard` and `shards`."""
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
            "evaluate.models",  # their order; each is an input too. How each is asked must be the same
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

# SPDX-License-Identifier: Apache-2.0
"""What a model family states of itself; each family has a file of its own beside this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reasongrm_nemo.models.decoder import Weight

if TYPE_CHECKING:
    from reasongrm_nemo.models.architecture import Architecture


def _nothing(_: Architecture) -> int:
    return 0


@dataclass(frozen=True)
class Family:
    """A model_type of config.json: which of its configs are taken, its weights, Megatron's settings.

    Counts of parameters and FLOPs follow from the weights (``parameter_counts``, ``flops``).

    Attributes:
        model_type: as config.json has it.
        layer: the weights of one decoder layer, in the order in which they are exported.
        megatron: NeMo's keys where they differ from those of every family (``megatron.nemo_config``).
        kept_per_token: elements that a layer's attention keeps of each token for its backward pass, beside
            what every family's keeps; tensor-parallel ranks share them.
        unread: keys of config.json that change nothing, beside those of every family (``config_keys``).
        neutral: keys of config.json with the values that are taken, where those differ from every family's.
        stated: keys that must be there, if only as null: engines do not take null for a missing one.
        absent: keys that must not be there, not even as null: an engine would read another model.
        ropes: kinds of rope that each engine computes for it; None: all that ``rope`` knows.
        wide_heads: head_dim may be another than hidden_size / num_attention_heads.
    """

    model_type: str
    layer: Callable[[Architecture], list[Weight]]
    megatron: Mapping[str, object] = field(default_factory=dict)
    kept_per_token: Callable[[Architecture], int] = _nothing
    unread: frozenset[str] = frozenset()
    neutral: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    stated: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    ropes: tuple[str, ...] | None = None
    wide_heads: bool = True

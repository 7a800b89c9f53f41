# SPDX-License-Identifier: Apache-2.0
"""The declaration of a model family; every family has a file in this folder."""

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
    """The models of one ``model_type``: supported config keys, weights, Megatron settings.

    Counts of parameters and FLOPs follow from the weights (``parameter_counts``, ``flops``).

    Attributes:
        model_type: ``model_type`` in config.json.
        layer: returns the weights of one decoder layer, in export order.
        megatron: NeMo keys that differ from the common ones (``megatron.nemo_config``).
        kept_per_token: returns the number of elements per token that a layer's attention keeps for the
            backward pass in addition to the common ones; split over tensor-parallel ranks.
        unread: keys of config.json without effect, in addition to the common ones (``config_keys``).
        neutral: keys of config.json with their supported values, where these differ from the common ones.
        stated: keys that must be present, even if null, because engines' defaults for a missing key differ.
        absent: keys that must not be present, even as null, because an engine would read a different model.
        ropes: rope kinds that all engines compute for this family; None: all kinds in ``rope``.
        wide_heads: whether head_dim may differ from hidden_size / num_attention_heads.
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

# SPDX-License-Identifier: Apache-2.0
"""Bytes that exist in a step besides the states, at the moment when they are most.

The tensors are those of the code that runs (``megatron.layers``, ``megatron.elementwise``, ``log_probs``,
megatron-core 0.12's linear layers and 1F1B schedule), each counted by its shape; what is smaller than a
hidden state's thousandth is left out. ``reasongrm plan --simulate`` holds them against that code itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reasongrm_nemo.megatron.states import WIDTH
from reasongrm_nemo.models.architecture import Architecture, Layout
from reasongrm_nemo.stage_kinds import kind_of

SAVED = "saved"
"""What forward passes keep for backward passes: layers' inputs, and without recomputation all else."""
LAYER = "layer"
"""A layer's backward pass, with the forward pass that comes again before it, and gradients on their way."""
HEAD = "head"
"""Log-probs: hidden states of all positions, a chunk's logits, the output weight's gradient."""
GATHERED = "gathered"
"""Sequence parallelism's buffer for one hidden state of all positions, never given back."""
REST = "rest"
"""Rotary angles, positions, masked token ids."""
PARTS = (SAVED, LAYER, HEAD, GATHERED, REST)

# Of a scored position: its target and its place, and the log-prob, normaliser, entropy and what they are of.
_VECTORS = 38


@dataclass(frozen=True)
class _Sizes:
    """Bytes of the tensors of one micro-batch on one rank.

    Attributes:
        hidden: a hidden state of all positions.
        shard: the same, of this rank's share of the positions under sequence parallelism.
        wide: the shard in fp32.
        ffn: half of what SwiGLU takes.
        attention: what a layer's attention keeps: query, key and value, the first two turned, their sines and
            cosines, the context, the normalisers.
        norms: the two normalisers of a layer's norms.
        table: the output weight.
        logits: one byte for each logit of a position.
        width: bytes of an element.
    """

    hidden: int
    shard: int
    wide: int
    ffn: int
    attention: int
    norms: int
    table: int
    logits: int
    width: int

    @property
    def narrow(self) -> bool:
        """Whether norms work on an fp32 copy."""
        return self.width < 4

    @property
    def layer(self) -> int:
        """What a layer keeps between forward and backward.

        Its input and the sum in its middle, two norms' outputs, attention, both ends of SwiGLU.
        """
        return 4 * self.shard + self.attention + self.norms + 3 * self.ffn

    @property
    def norm_backward(self) -> int:
        """A norm's backward pass: three products in fp32; of 16-bit tensors also a copy, and the result."""
        return 3 * self.wide + (self.wide + self.shard if self.narrow else 0)


def of_step(
    recipe: Any, architecture: Architecture, stage: int, micro_batches: int | None = None
) -> dict[str, int]:
    """Bytes by part on a rank of a pipeline stage, at the worst moment of a step.

    Args:
        recipe: of stage ``grpo`` or ``sft``; its micro-batches are as full as they get (``fullest``).
        architecture: shape of the model.
        stage: from 0.
        micro_batches: of the step; None: more than the pipeline holds.
    """
    own = moments_of_step(recipe, architecture, stage, micro_batches)
    return max(own.values(), key=lambda parts: sum(parts.values()))


def moments_of_step(
    recipe: Any, architecture: Architecture, stage: int, micro_batches: int | None = None
) -> dict[str, dict[str, int]]:
    """Bytes by part at each moment that can be the worst."""
    cluster = recipe.cluster
    layout = Layout.of_cluster(cluster)
    counts = layout.stages(architecture.layers)
    assert counts is not None
    rows, length = micro_batch(recipe)
    sizes = _sizes(recipe, architecture, rows, length)
    layers, last = counts[stage], stage == layout.pipeline - 1
    # 1F1B: a stage is ahead of the last one by as many micro-batches as stages lie between
    flying = min(layout.pipeline - stage, micro_batches or layout.pipeline)
    constant = {
        GATHERED: sizes.hidden if cluster.sequence_parallel else 0,
        REST: _rest(architecture, layout, rows, length, flying if stage == 0 else 0),
    }
    # log-probs and their gradient
    scores = 2 * rows * length * 4
    # the gradient of the micro-batch before, which the stage before has not taken yet
    sent = sizes.shard if stage and micro_batches != 1 else 0
    found = {}
    for name, (saved, layer) in _layer_moments(recipe, sizes, layers * flying).items():
        found[name] = {SAVED: saved, LAYER: layer + sent, HEAD: scores if last else 0, **constant}
    if last:
        kept = layers * (sizes.shard if recipe.model.recompute == "full" else sizes.layer) + sizes.shard
        scored = rows * (fullest(recipe)[1] - 1)
        for name, head in _head_moments(recipe, architecture, sizes, scored).items():
            # while the last one's log-probs are worked out, the next micro-batch has come
            waiting = sent if name == "head forward" else 0
            found[name] = {SAVED: kept + waiting, LAYER: sent, HEAD: head, **constant}
        incoming = sizes.shard if cluster.sequence_parallel else sizes.hidden
        backward = sizes.norm_backward + incoming + sent
        found["final norm"] = {SAVED: kept, LAYER: backward, HEAD: 0, **constant}
    return found


def micro_batch(recipe: Any) -> tuple[int, int]:
    """Sequences and positions of the largest micro-batch, as ``micro_batches.collate`` lays it out."""
    cluster = recipe.cluster
    multiple = cluster.tensor_parallel if cluster.sequence_parallel else 1
    rows, longest = fullest(recipe)
    # the last token is only predicted
    return rows, -(-(longest - 1) // multiple) * multiple


def fullest(recipe: Any) -> tuple[int, int]:
    """Sequences and their tokens, of the micro-batch with most tokens that ``micro_batches.plan`` can make.

    Where the budget is no multiple of the longest sequence, one sequence more of a lesser length fills it
    better.
    """
    budget, longest = recipe[recipe.stage].max_tokens_per_micro_batch, recipe.model.max_model_len
    if kind_of(recipe).on_policy:
        longest = min(longest, recipe.judge.max_prompt_tokens + recipe.rollout.max_response_tokens)
    rows = max(1, budget // longest)
    cuts = (rows, longest), (rows + 1, min(longest, budget // (rows + 1)))
    return max(cuts, key=lambda cut: cut[0] * cut[1])


def _sizes(recipe: Any, architecture: Architecture, rows: int, length: int) -> _Sizes:
    a, cluster = architecture, recipe.cluster
    tensor, width, tokens = cluster.tensor_parallel, WIDTH[recipe.model.dtype], rows * length
    share = tokens // tensor if cluster.sequence_parallel else tokens
    heads, groups = a.heads // tensor, a.kv_heads // tensor
    projected = (heads + 2 * groups) * a.head_dim
    turned = (heads + groups) * a.head_dim
    further = a.family.kept_per_token(a) // tensor
    context = heads * a.head_dim
    angles = 4 * length * (a.head_dim // 2) * width
    table = -(-a.vocab // tensor)
    return _Sizes(
        hidden=tokens * a.hidden * width,
        shard=share * a.hidden * width,
        wide=share * a.hidden * 4,
        ffn=tokens * (a.ffn // tensor) * width,
        attention=tokens * (projected + turned + further + context) * width + angles + tokens * heads * 4,
        norms=2 * share * 4,
        table=table * a.hidden * width,
        logits=table,
        width=width,
    )


def _rest(architecture: Architecture, layout: Layout, rows: int, length: int, flying: int) -> int:
    positions, angles = 8 * length, 4 * length * architecture.head_dim
    # the embedding keeps its ids less the first of its rows, and which of them are none of its own
    masked = 9 * rows * length * flying if layout.tensor > 1 else 0
    return positions + angles + masked


def _layer_moments(recipe: Any, sizes: _Sizes, held: int) -> dict[str, tuple[int, int]]:
    """(saved, layer) in the backward pass of the first of ``held`` layers."""
    incoming = sizes.shard
    # from the gradient after SwiGLU: that of its input, silu of half of it
    swiglu = 4 * sizes.ffn + incoming
    # the gradient of the residual beside that of the projection, whose ranks' parts are summed
    norm = (
        sizes.norm_backward + incoming + (sizes.shard if recipe.cluster.sequence_parallel else sizes.hidden)
    )
    if recipe.model.recompute == "full":
        # the layer's own output comes again, its input is saved anyway
        again = sizes.layer
        return {
            "swiglu": (held * sizes.shard, again - sizes.ffn + swiglu),
            "norm": (held * sizes.shard, again - 3 * sizes.ffn - sizes.shard + norm),
        }
    saved = held * sizes.layer
    return {
        "swiglu": (saved - sizes.ffn, swiglu),
        "norm": (saved - 3 * sizes.ffn - sizes.shard, norm),
    }


def _head_moments(recipe: Any, architecture: Architecture, sizes: _Sizes, scored: int) -> dict[str, int]:
    """Bytes of the head in its forward and backward pass."""
    width = sizes.width
    wanted = scored * architecture.hidden * width
    first = min(recipe.model.log_prob_chunk, scored)
    second = min(recipe.model.log_prob_chunk, scored - first)
    # a product in the weights' type, then in fp32, where that is another
    product = width + (4 if sizes.narrow else 0)
    # logits and their exponentials, or these in place of those
    entropy = kind_of(recipe).on_policy
    forward, slopes = (8 if entropy else 4), entropy and recipe.grpo.entropy_coefficient > 0
    backward = max(product, 8 if slopes else 4)
    gathered = sizes.shard if recipe.cluster.sequence_parallel else 0
    fp32_table = sizes.table // width * 4
    # a chunk is let go only when the next one's logits are there
    forward_most = max(max(forward, product) * first, forward * first + product * second)
    backward_most = max(backward * first, width * first + backward * second)
    moments = {
        "head forward": sizes.hidden + gathered + wanted + forward_most * sizes.logits,
        "head backward": 2 * wanted + fp32_table + backward_most * sizes.logits,
        "head's weight": 2 * wanted + fp32_table + width * first * sizes.logits + sizes.table,
        # back to all positions: zeros, then a copy of them with what was scored
        "positions": wanted + 2 * sizes.hidden,
    }
    return {name: size + _VECTORS * scored for name, size in moments.items()}

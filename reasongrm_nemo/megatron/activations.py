# SPDX-License-Identifier: Apache-2.0
"""Peak activation memory of one training step (without weights, gradients and optimizer states).

Counts the tensors of the training code (``megatron.layers``, ``megatron.elementwise``, ``log_probs``,
megatron-core 0.12's linear layers and 1F1B schedule) by their shapes, except those smaller than a thousandth
of a hidden state. ``reasongrm plan --simulate`` compares the result with the training code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reasongrm_nemo.megatron.states import WIDTH
from reasongrm_nemo.models.architecture import Architecture, Layout
from reasongrm_nemo.stage_kinds import kind_of

SAVED = "saved"
"""Kept from forward to backward passes: layer inputs and, without recomputation, other activations."""
LAYER = "layer"
"""Backward pass of one layer, its recomputed forward pass, and gradients passed between stages."""
HEAD = "head"
"""Log-probs: hidden states of all positions, logits of a chunk, gradient of the output weight."""
GATHERED = "gathered"
"""Sequence parallelism's buffer for one hidden state of all positions, which is never freed."""
REST = "rest"
"""Rotary angles, positions, masked token ids."""
PARTS = (SAVED, LAYER, HEAD, GATHERED, REST)

# Bytes per scored position: target, index, log-prob, normaliser, entropy and their intermediate results.
_VECTORS = 38


@dataclass(frozen=True)
class _Sizes:
    """Bytes of the tensors of one micro-batch on one rank.

    Attributes:
        hidden: a hidden state of all positions.
        shard: this rank's part of a hidden state under sequence parallelism.
        wide: the shard in fp32.
        ffn: half of SwiGLU's input.
        attention: tensors kept by a layer's attention: query, key and value, rotated query and key, sines and
            cosines, context, normalisers.
        norms: the normalisers of a layer's two norms.
        table: the output weight.
        logits: number of logits per position.
        width: bytes per element.
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
        """Whether norms compute on an fp32 copy."""
        return self.width < 4

    @property
    def layer(self) -> int:
        """Bytes that a layer keeps between forward and backward.

        Input, residual sum after attention, both norms' outputs, attention, SwiGLU's input and output.
        """
        return 4 * self.shard + self.attention + self.norms + 3 * self.ffn

    @property
    def norm_backward(self) -> int:
        """Bytes of a norm's backward pass: three fp32 products; for 16-bit types also copy and result."""
        return 3 * self.wide + (self.wide + self.shard if self.narrow else 0)


def of_step(
    recipe: Any, architecture: Architecture, stage: int, micro_batches: int | None = None
) -> dict[str, int]:
    """Bytes by part on a rank of a pipeline stage, at the peak of a step.

    Args:
        recipe: recipe of stage ``grpo`` or ``sft``; micro-batches are assumed to be full (``fullest``).
        architecture: shape of the model.
        stage: pipeline stage, from 0.
        micro_batches: number of micro-batches per step; None: more than the pipeline holds.
    """
    moments = moments_of_step(recipe, architecture, stage, micro_batches)
    return max(moments.values(), key=lambda parts: sum(parts.values()))


def moments_of_step(
    recipe: Any, architecture: Architecture, stage: int, micro_batches: int | None = None
) -> dict[str, dict[str, int]]:
    """Bytes by part at each moment that can be the peak."""
    cluster = recipe.cluster
    layout = Layout.of_cluster(cluster)
    counts = layout.stages(architecture.layers)
    assert counts is not None
    rows, length = micro_batch(recipe)
    sizes = _sizes(recipe, architecture, rows, length)
    layers, last = counts[stage], stage == layout.pipeline - 1
    # 1F1B: a stage is ahead of the last one by one micro-batch per stage in between
    flying = min(layout.pipeline - stage, micro_batches or layout.pipeline)
    constant = {
        GATHERED: sizes.hidden if cluster.sequence_parallel else 0,
        REST: _rest(architecture, layout, rows, length, flying if stage == 0 else 0),
    }
    # log-probs and their gradient
    scores = 2 * rows * length * 4
    # gradient of the previous micro-batch, which the previous stage has not received yet
    sent = sizes.shard if stage and micro_batches != 1 else 0
    moments = {}
    for name, (saved, layer) in _layer_moments(recipe, sizes, layers * flying).items():
        moments[name] = {SAVED: saved, LAYER: layer + sent, HEAD: scores if last else 0, **constant}
    if last:
        kept = layers * (sizes.shard if recipe.model.recompute == "full" else sizes.layer) + sizes.shard
        scored = rows * (fullest(recipe)[1] - 1)
        for name, head in _head_moments(recipe, architecture, sizes, scored).items():
            # the next micro-batch arrives while log-probs of the current one are computed
            waiting = sent if name == "head forward" else 0
            moments[name] = {SAVED: kept + waiting, LAYER: sent, HEAD: head, **constant}
        incoming = sizes.shard if cluster.sequence_parallel else sizes.hidden
        backward = sizes.norm_backward + incoming + sent
        moments["final norm"] = {SAVED: kept, LAYER: backward, HEAD: 0, **constant}
    return moments


def micro_batch(recipe: Any) -> tuple[int, int]:
    """Numbers of sequences and positions of the largest micro-batch made by ``micro_batches.collate``."""
    cluster = recipe.cluster
    multiple = cluster.tensor_parallel if cluster.sequence_parallel else 1
    rows, longest = fullest(recipe)
    # the last token is only a target
    return rows, -(-(longest - 1) // multiple) * multiple


def fullest(recipe: Any) -> tuple[int, int]:
    """Number and length of the sequences in the largest micro-batch that ``plan_micro_batches`` can make.

    If the budget is not a multiple of the longest sequence, one more sequence of smaller length can fill it
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
    # the embedding keeps ids relative to its first row, and a mask of ids on other ranks
    masked = 9 * rows * length * flying if layout.tensor > 1 else 0
    return positions + angles + masked


def _layer_moments(recipe: Any, sizes: _Sizes, held: int) -> dict[str, tuple[int, int]]:
    """(saved, layer) in the backward pass of the first of ``held`` layers."""
    incoming = sizes.shard
    # SwiGLU's backward pass: gradients of output and input, silu of half the input
    swiglu = 4 * sizes.ffn + incoming
    # gradients of the residual and of the projection, which is summed over ranks
    norm = (
        sizes.norm_backward + incoming + (sizes.shard if recipe.cluster.sequence_parallel else sizes.hidden)
    )
    if recipe.model.recompute == "full":
        # recomputation creates the layer's activations again; its input is saved anyway
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
    # a product in the weights' dtype, then, if different, in fp32
    product = width + (4 if sizes.narrow else 0)
    # logits and their exponentials; without entropy, exponentials replace the logits
    entropy = kind_of(recipe).on_policy
    forward, slopes = (8 if entropy else 4), entropy and recipe.grpo.entropy_coefficient > 0
    backward = max(product, 8 if slopes else 4)
    gathered = sizes.shard if recipe.cluster.sequence_parallel else 0
    fp32_table = sizes.table // width * 4
    # a chunk's logits are freed only after the next chunk's are computed
    forward_most = max(max(forward, product) * first, forward * first + product * second)
    backward_most = max(backward * first, width * first + backward * second)
    moments = {
        "head forward": sizes.hidden + gathered + wanted + forward_most * sizes.logits,
        "head backward": 2 * wanted + fp32_table + backward_most * sizes.logits,
        "head's weight": 2 * wanted + fp32_table + width * first * sizes.logits + sizes.table,
        # scatter to all positions: zeros, then a copy with the scored ones
        "positions": wanted + 2 * sizes.hidden,
    }
    return {name: size + _VECTORS * scored for name, size in moments.items()}

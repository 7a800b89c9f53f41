# SPDX-License-Identifier: Apache-2.0
"""Splits a global batch into micro-batches by a token budget, and collates sequences into tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One sequence to train on or to score.

    Attributes:
        tokens: prompt and response.
        prompt_length: tokens before the response; only the response is scored.
        advantage: the response's advantage (GRPO), the same for each of its tokens.
        per_token: further values, one per response token (e.g. rollout log-probs).
        weight: loss weight of each response token.
    """

    tokens: tuple[int, ...]
    prompt_length: int
    advantage: float = 0.0
    per_token: dict[str, tuple[float, ...]] = field(default_factory=dict)
    weight: float = 1.0

    @property
    def response_length(self) -> int:
        """Number of response tokens."""
        return len(self.tokens) - self.prompt_length


@dataclass(frozen=True)
class MicroBatch:
    """Samples as tensors, padded on the right; b samples, s positions.

    Position t predicts ``targets[:, t]``; ``mask`` is 1 where the target is a response token.

    Attributes:
        tokens: int64 [b, s].
        targets: int64 [b, s].
        mask: fp32 [b, s].
        advantages: fp32 [b, 1].
        weights: fp32 [b, 1].
        per_token: fp32 [b, s] each, zero outside the mask.
        rows: index of each sample in the list that was split.
        scored: int64, indices of the mask's ones in [s * b], the memory order of hidden states.
    """

    tokens: Tensor
    targets: Tensor
    mask: Tensor
    advantages: Tensor
    weights: Tensor
    per_token: dict[str, Tensor]
    rows: tuple[int, ...]
    scored: Tensor


# Cost of launching one more micro-batch, as a share of the mean length in padding tokens.
_OVERHEAD = 0.25


def plan_micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group sequences of similar length, with rows x longest of at most ``budget`` tokens per group.

    Minimizes padding over all splits of the sorted lengths by dynamic programming, with a small fixed cost
    for each micro-batch.

    Args:
        lengths: tokens of each sequence.
        budget: tokens per micro-batch, padding included; a longer sequence gets its own micro-batch.

    Returns:
        Indices of each micro-batch, longest first (the largest allocation comes first).
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    sizes = np.array([lengths[i] for i in order], dtype=np.float64)
    extra = _OVERHEAD * sizes.mean() if len(sizes) else 0.0
    cost = np.zeros(len(sizes) + 1)  # cost of the best split of the sequences from index i on
    rows = np.zeros(len(sizes), dtype=np.int64)  # size of the first group in that split
    for place in range(len(sizes) - 1, -1, -1):
        most = min(max(int(budget // sizes[place]), 1), len(sizes) - place)
        counts = np.arange(1, most + 1)
        totals = counts * sizes[place] + extra + cost[place + 1 : place + most + 1]
        best = int(totals.argmin())
        cost[place], rows[place] = totals[best], counts[best]
    groups, place = [], 0
    while place < len(order):
        groups.append(order[place : place + rows[place]])
        place += rows[place]
    return groups


def collate(samples: Sequence[Sample], rows: Sequence[int], multiple: int = 1) -> MicroBatch:
    """Collate ``samples[rows]`` into tensors whose length is a multiple of ``multiple``."""
    chosen = [samples[i] for i in rows]
    length = max(len(s.tokens) for s in chosen) - 1
    length = -(-length // multiple) * multiple
    # pad with token 0; its value has no effect, as attention is causal and padded targets are masked
    tokens = torch.zeros(len(chosen), length, dtype=torch.long)
    targets = torch.zeros_like(tokens)
    mask = torch.zeros(len(chosen), length)
    per_token = {name: torch.zeros_like(mask) for name in chosen[0].per_token}
    for row, sample in enumerate(chosen):
        ids = torch.tensor(sample.tokens)
        span = slice(sample.prompt_length - 1, len(sample.tokens) - 1)
        tokens[row, : len(ids) - 1] = ids[:-1]
        targets[row, : len(ids) - 1] = ids[1:]
        mask[row, span] = 1.0
        for name, values in sample.per_token.items():
            per_token[name][row, span] = torch.tensor(values)
    advantages = torch.tensor([[s.advantage] for s in chosen], dtype=torch.float32)
    weights = torch.tensor([[s.weight] for s in chosen], dtype=torch.float32)
    scored = [
        position * len(chosen) + row
        for row, sample in enumerate(chosen)
        for position in range(sample.prompt_length - 1, len(sample.tokens) - 1)
    ]
    return MicroBatch(
        tokens, targets, mask, advantages, weights, per_token, tuple(rows), torch.tensor(scored)
    )


def laid_out(lengths: Sequence[int], groups: Sequence[Sequence[int]]) -> int:
    """Number of tokens in the micro-batches ``groups``, padding included."""
    return sum(len(g) * max(lengths[i] for i in g) for g in groups)

# SPDX-License-Identifier: Apache-2.0
"""Collates sequences into the tensors of a micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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

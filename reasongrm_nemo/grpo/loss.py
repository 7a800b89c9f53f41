# SPDX-License-Identifier: Apache-2.0
"""GRPO's loss, token by token."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_surrogate(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """The clipped policy-gradient loss of PPO (Schulman et al. 2017, eq. 7) with GRPO's advantages.

        -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A),  r = exp(log_probs - old_log_probs)

    Args:
        log_probs: the policy's, fp32 [b, s], with gradient.
        old_log_probs: of the policy that sampled, fp32 [b, s].
        advantages: fp32, broadcast to [b, s].
        clip_low: distance below 1 at which the ratio is clipped.
        clip_high: distance above 1.

    Returns:
        Loss fp32 [b, s], and where the clipped term was the smaller one, bool [b, s].
    """
    ratio = (log_probs - old_log_probs).exp()
    plain = ratio * advantages
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages
    return -torch.minimum(plain, clipped), clipped < plain


def kl_estimate(log_probs: Tensor, reference_log_probs: Tensor, estimator: str) -> Tensor:
    """Estimate of KL(policy || reference) at each sampled token.

    Source: Schulman, "Approximating KL divergence", 2020.

    With d = log_probs - reference: k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d.

    Args:
        log_probs: the policy's, fp32, any shape.
        reference_log_probs: the reference's, same shape.
        estimator: ``k1``, ``k2`` or ``k3``.

    Raises:
        ValueError: another estimator.
    """
    difference = log_probs - reference_log_probs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    if estimator == "k3":
        return (-difference).exp() - 1 + difference
    raise ValueError(f"unknown KL estimator {estimator!r}; it must be k1, k2 or k3")

# SPDX-License-Identifier: Apache-2.0
"""GRPO's loss on one micro-batch, and its per-token terms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from omegaconf import DictConfig
from torch import Tensor

from reasongrm_nemo.megatron.micro_batches import MicroBatch


def micro_batch_loss(
    log_probs: Tensor, entropy: Tensor, micro_batch: MicroBatch, cfg: DictConfig
) -> tuple[dict[str, Tensor], Tensor]:
    """Compute a micro-batch's part of the global batch's loss and of the step's metrics.

    Args:
        log_probs: the policy's log-probs at the sampling temperature, fp32 [b, s], with gradient.
        entropy: entropy of the same distributions, nats, fp32 [b, s].
        micro_batch: with ``per_token`` values ``rollout`` (the sampling engine's log-probs) and optionally
            ``old`` and ``reference``, all at the sampling temperature.
        cfg: the recipe's ``grpo`` block.

    Returns:
        Sums over response tokens: ``loss`` (weighted, with gradient), ``clip_share``, ``kl``, ``entropy``
        and ``log_prob_error_mean``; and the largest difference from the engine's log-probs.
    """
    device = log_probs.device
    mask = micro_batch.mask.to(device)
    values = {name: value.to(device) for name, value in micro_batch.per_token.items()}
    # with one optimizer step per rollout batch, the policy is still the one that sampled
    old = values.get("old", log_probs.detach())
    loss, clipped = clipped_surrogate(
        log_probs, old, micro_batch.advantages.to(device), cfg.clip_low, cfg.clip_high, cfg.clip_dual
    )
    correction = cfg.importance
    limits = correction.low, correction.high
    ratios = importance_weights(old, values["rollout"], correction.correction, limits)
    kl = torch.zeros_like(loss)
    if "reference" in values:
        kl = kl_estimate(log_probs, values["reference"], cfg.kl_estimator)
    loss = loss * ratios + cfg.kl_coefficient * kl
    if cfg.entropy_coefficient:
        loss = loss - cfg.entropy_coefficient * entropy
    error = (log_probs.detach() - values["rollout"]).abs() * mask
    sums = {
        "loss": (loss * micro_batch.weights.to(device) * mask).sum(),
        "clip_share": (clipped * mask).sum(),
        "kl": (kl * mask).sum(),
        "entropy": (entropy * mask).sum(),
        "log_prob_error_mean": error.sum(),
    }
    return sums, error.max()


def clipped_surrogate(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    clip_low: float,
    clip_high: float,
    clip_dual: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The clipped policy-gradient loss of PPO (Schulman et al. 2017, eq. 7) with GRPO's advantages.

        -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A),  r = exp(log_probs - old_log_probs)

    A dual clip c bounds the loss by -c A where A < 0 (Ye et al. 2020, eq. 5), which keeps a response that
    became many times likelier since it was sampled from outweighing all others.

    Args:
        log_probs: the policy's log-probs, fp32 [b, s], with gradient.
        old_log_probs: log-probs of the policy that sampled, fp32 [b, s].
        advantages: fp32, broadcast to [b, s].
        clip_low: distance below 1 at which the ratio is clipped.
        clip_high: distance above 1 at which the ratio is clipped.
        clip_dual: c, above 1; None disables the dual clip.

    Returns:
        Loss fp32 [b, s], and a mask of the clipped tokens, bool [b, s].
    """
    ratio = (log_probs - old_log_probs).exp()
    plain = ratio * advantages
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages
    gain, taken = torch.minimum(plain, clipped), clipped < plain
    if clip_dual is not None:
        floor = clip_dual * advantages
        below = (advantages < 0) & (gain < floor)
        gain, taken = torch.where(below, floor, gain), taken | below
    return -gain, taken


def importance_weights(
    old_log_probs: Tensor, rollout_log_probs: Tensor, correction: str, limits: tuple[float, float]
) -> Tensor:
    """Importance weight of each token, correcting for sampler and trainer computing different log-probs.

    With w = exp(old - rollout): ``truncated`` is min(w, high) (Yao et al. 2025, "truncated importance
    sampling"), ``masked`` is w where low <= w <= high and 0 elsewhere (Ling Team 2025, IcePop).

    Args:
        old_log_probs: the trainer's log-probs under the sampling weights, any shape.
        rollout_log_probs: the sampling engine's log-probs, same shape.
        correction: ``none``, ``truncated`` or ``masked``.
        limits: low and high; ``truncated`` uses only the high one.

    Returns:
        Weights of the same shape, without gradient; ones for ``none``.

    Raises:
        ValueError: unknown correction.
    """
    low, high = limits
    weights = (old_log_probs - rollout_log_probs).detach().exp()
    if correction == "none":
        return torch.ones_like(weights)
    if correction == "truncated":
        return weights.clamp(max=high)
    if correction == "masked":
        # where(), not a product with the mask: if a weight overflows, inf × 0 is NaN
        return weights.where((weights >= low) & (weights <= high), 0.0)
    raise ValueError(f"unknown correction {correction!r}; it must be none, truncated or masked")


def sample_weights(
    lengths: Sequence[int], counted: Sequence[bool], aggregation: str, limit: int
) -> list[float]:
    """Weight of each response's tokens in the global batch's loss.

    ``token``: every token counts the same, 1 / sum of lengths (DAPO, Yu et al. 2025, eq. 12).
    ``sequence``: every response counts the same, 1 / (responses × length) (GRPO, Shao et al. 2024, eq. 3).
    ``constant``: 1 / (responses × limit), no length bias (Dr. GRPO, Liu et al. 2025, section 3).

    Args:
        lengths: response tokens of every sample of the global batch.
        counted: which samples to train on; the others get weight 0.
        aggregation: ``token``, ``sequence`` or ``constant``.
        limit: longest allowed response, in tokens.

    Raises:
        ValueError: unknown aggregation.
    """
    tokens = sum(length for length, yes in zip(lengths, counted, strict=True) if yes)
    responses = sum(counted)
    if aggregation == "token":
        weights = [1.0 / max(tokens, 1)] * len(lengths)
    elif aggregation == "sequence":
        weights = [1.0 / (max(responses, 1) * max(length, 1)) for length in lengths]
    elif aggregation == "constant":
        weights = [1.0 / (max(responses, 1) * limit)] * len(lengths)
    else:
        raise ValueError(f"unknown aggregation {aggregation!r}; it must be token, sequence or constant")
    return [weight if yes else 0.0 for weight, yes in zip(weights, counted, strict=True)]


def kl_estimate(log_probs: Tensor, reference_log_probs: Tensor, estimator: str) -> Tensor:
    """Estimate KL(policy || reference) at each sampled token.

    Source: Schulman, "Approximating KL divergence", 2020.

    With d = log_probs - reference: k1 = d, k2 = d^2 / 2, k3 = exp(-d) - 1 + d.

    Args:
        log_probs: the policy's log-probs, fp32, any shape.
        reference_log_probs: the reference policy's log-probs, same shape.
        estimator: ``k1``, ``k2`` or ``k3``.

    Raises:
        ValueError: unknown estimator.
    """
    difference = log_probs - reference_log_probs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    if estimator == "k3":
        return (-difference).exp() - 1 + difference
    raise ValueError(f"unknown KL estimator {estimator!r}; it must be k1, k2 or k3")

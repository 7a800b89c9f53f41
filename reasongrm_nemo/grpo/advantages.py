# SPDX-License-Identifier: Apache-2.0
"""Which groups to train on, and the advantage of each response within its group (section 3.2)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def keep_group(correct: Sequence[bool]) -> bool:
    """Return whether a group has both right and wrong responses: 0 < sum_i 1[o_i right] < K.

    This is the paper's condition for an update. It looks at correctness, not at advantages or shaped
    rewards, which can differ within a group whose responses are all right or all wrong.

    Args:
        correct: (K,) whether each response of the group is right; booleans, or 0 and 1.

    Raises:
        ValueError: an entry is neither 0 nor 1.
    """
    wrong = [entry for entry in correct if entry not in (0, 1)]
    if wrong:
        raise ValueError(f"Each response is right (1) or not (0), got {wrong[0]!r}")
    return 0 < sum(correct) < len(correct)


def group_advantages(
    rewards: ArrayLike,
    group_ids: Sequence[Hashable],
    *,
    std: bool = True,
    eps: float = 1e-6,
    baseline: str = "mean",
) -> NDArray[np.float64]:
    """GRPO's advantages: each reward minus its group's mean, divided by its group's standard deviation.

        A_i = (r_i - b_i) / (std(r) + eps)

    The baseline b_i is the group's mean (Shao et al. 2024, section 4.1.2) or the mean of the group's other
    rewards (leave-one-out: Ahmadian et al. 2024, eq. 8), which does not depend on r_i.

    The standard deviation divides by K - 1, as common GRPO implementations do; the paper does not specify.
    A group with equal rewards, or with one member, has advantages of exactly 0.

    Args:
        rewards: (N,) rewards, finite.
        group_ids: (N,) the group of each reward; members need not be adjacent.
        std: divide by the standard deviation; False (Dr. GRPO) only subtracts the baseline.
        eps: added to the standard deviation to keep the quotient bounded.
        baseline: ``mean`` or ``leave_one_out``.

    Returns:
        (N,) float64.

    Raises:
        ValueError: lengths differ, a reward is not finite, or the baseline is unknown.
    """
    if baseline not in ("mean", "leave_one_out"):
        raise ValueError(f"unknown baseline {baseline!r}; it must be mean or leave_one_out")
    values = np.asarray(rewards, dtype=np.float64)
    if values.ndim != 1 or len(values) != len(group_ids):
        raise ValueError(f"{len(group_ids)} group ids for rewards of the shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("A reward is not finite")
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(group_ids):
        members.setdefault(group, []).append(index)
    advantages = np.zeros_like(values)
    for indices in members.values():
        group_rewards = values[indices]
        if group_rewards.min() == group_rewards.max():
            continue
        centred = group_rewards - group_rewards.mean()
        if baseline == "leave_one_out":  # r - (sum - r) / (K - 1)
            centred *= len(indices) / (len(indices) - 1)
        advantages[indices] = centred / (group_rewards.std(ddof=1) + eps) if std else centred
    return advantages

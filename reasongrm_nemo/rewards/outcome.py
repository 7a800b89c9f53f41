# SPDX-License-Identifier: Apache-2.0
"""The outcome reward (section 3.2): 1 if right, 0 if not."""

from __future__ import annotations


def outcome_reward(verdict: str | None, label: str) -> float:
    """Return 1.0 if the verdict equals the label, else 0.0; a missing verdict is never right.

    Args:
        verdict: "A", "B" or None, from `reasongrm_nemo.judge.parse_verdict`.
        label: "A" or "B".

    Raises:
        ValueError: another verdict or label.
    """
    if label not in ("A", "B"):
        raise ValueError(f"The label must be 'A' or 'B', got {label!r}")
    if verdict not in ("A", "B", None):
        raise ValueError(f"The verdict must be 'A', 'B' or None, got {verdict!r}")
    return 1.0 if verdict == label else 0.0

# SPDX-License-Identifier: Apache-2.0
"""Reports a judge's position bias: figures for a stage's result, and a line on screen."""

from __future__ import annotations

from typing import Any

from reasongrm_nemo.evaluation.positions import Positions
from reasongrm_nemo.run.console import Console


def tell_positions(console: Console, positions: Positions) -> dict[str, Any]:
    """Print a line on position bias, with both orders if pairs were judged in both; returns the figures."""
    figures = positions.figures()
    words = [f"first answer preferred {_percent(figures['position_a'])} of the time"]
    both = figures["both"]
    if both["pairs"]:
        shares = [f"{name.replace('_', ' ')} {_percent(both[name])}" for name in both if name != "pairs"]
        words.append(f"{both['pairs']} pairs in both orders: {', '.join(shares)}")
    console.line(f"  {'; '.join(words)}")
    return figures


def _percent(share: dict[str, Any]) -> str:
    return "-" if share["value"] is None else f"{share['value']:.1%}"

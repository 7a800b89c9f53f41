# SPDX-License-Identifier: Apache-2.0
"""Plots the rollouts of one step."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.plan.rollouts.timeline import Timeline


def draw(line: Timeline, path: Path, title: str) -> None:
    """Plot each answer as a bar from admission to end, below the number of running answers.

    Args:
        line: timeline of one step.
        path: a .png, .pdf or .svg file.
        title: title of the plot.

    Raises:
        UserError: matplotlib is not installed, the path is a folder, or the file cannot be written.
    """
    if path.is_dir():
        raise UserError(f"--plot: {path} is a folder; give the picture's file, a .png, .pdf or .svg")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(
            "--plot needs matplotlib: pip install matplotlib, or the trainer environment"
        ) from None
    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    for number, events in enumerate(line.running):
        moments, counts = zip(*events, (line.seconds, 0), strict=True)
        above.step(moments, counts, where="post", label=f"server {number + 1}")
    for share in (0.5, 0.9, 0.99):
        above.axvline(line.share_done(share), color="0.6", linewidth=0.8)
        above.annotate(
            f"{share:.0%} done", (line.share_done(share), above.get_ylim()[1]), fontsize=7, va="top"
        )
    above.set(ylabel="answers that run", title=title)
    above.legend(fontsize=7)
    servers = np.broadcast_to(line.server[:, None], line.lengths.shape).ravel()
    order = np.lexsort((line.ended.ravel(), servers))
    began, ended = line.began.ravel()[order], line.ended.ravel()[order]
    colours = [f"C{server % 10}" for server in servers[order]]
    below.barh(np.arange(len(order)), ended - began, left=began, height=1.0, color=colours)
    below.set(xlabel="seconds", ylabel="answer, by server and end")
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"--plot: {path} cannot be written: {error}") from None

# SPDX-License-Identifier: Apache-2.0
"""Duration of a 1F1B pipeline whose stages and micro-batches differ in speed."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


def seconds(forward: Sequence[Sequence[float]], backward: Sequence[Sequence[float]] | None = None) -> float:
    """Time from the first forward pass to the end of the last pass; communication is free.

    A stage runs one forward pass for each later stage, then alternates forward and backward passes, then runs
    the remaining backward passes (1F1B: Narayanan et al. 2021, arXiv 2104.04473, figure 4; megatron-core,
    ``forward_backward_pipelining_without_interleaving``).

    Args:
        forward: seconds of each micro-batch, in order, on each stage; at least one micro-batch.
        backward: likewise; None: forward passes only.
    """
    spent, last = {"f": forward, "b": backward or ()}, len(forward[0]) - 1
    done: dict[tuple[str, int, int], float] = {}
    todo = [deque(_order(len(forward), last - stage, backward is not None)) for stage in range(last + 1)]
    free = [0.0] * (last + 1)
    while any(todo):
        for stage, passes in enumerate(todo):
            while passes:
                way, batch = passes[0]
                before, first = (stage - 1, stage == 0) if way == "f" else (stage + 1, stage == last)
                came = 0.0 if first else done.get((way, before, batch))
                if came is None:
                    break
                free[stage] = done[way, stage, batch] = max(free[stage], came) + spent[way][batch][stage]
                passes.popleft()
    return max(free)


def _order(batches: int, behind: int, train: bool) -> list[tuple[str, int]]:
    """Passes of a stage with ``behind`` later stages, in order."""
    if not train:
        return [("f", batch) for batch in range(batches)]
    ahead = min(behind, batches)
    order = [("f", batch) for batch in range(ahead)]
    for batch in range(batches - ahead):
        order += [("f", ahead + batch), ("b", batch)]
    return order + [("b", batch) for batch in range(batches - ahead, batches)]

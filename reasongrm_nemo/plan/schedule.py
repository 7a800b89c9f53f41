# SPDX-License-Identifier: Apache-2.0
"""How long a pipeline takes over its micro-batches, stages and micro-batches of any speed."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


def seconds(forward: Sequence[Sequence[float]], backward: Sequence[Sequence[float]] | None = None) -> float:
    """Time from the first stage's beginning to the last pass's end; nothing is reckoned for what is sent.

    A stage runs a forward pass for each stage behind it, then a forward and a backward pass in turn, then
    the backward passes that are left (1F1B: Narayanan et al. 2021, arXiv 2104.04473, figure 4; megatron-core,
    ``forward_backward_pipelining_without_interleaving``).

    Args:
        forward: seconds of each micro-batch, in order, on each stage; at least one micro-batch.
        backward: likewise; None: there are forward passes alone.
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
    """The passes of a stage that has ``behind`` stages after it."""
    if not train:
        return [("f", batch) for batch in range(batches)]
    ahead = min(behind, batches)
    order = [("f", batch) for batch in range(ahead)]
    for batch in range(batches - ahead):
        order += [("f", ahead + batch), ("b", batch)]
    return order + [("b", batch) for batch in range(batches - ahead, batches)]

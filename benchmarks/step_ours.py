# SPDX-License-Identifier: Apache-2.0
"""Our contender in grpo_step.py: stage grpo's trainer, one step per turn.

    python benchmarks/step_ours.py WORK_ORDER.json RESPONSE_TOKENS

There are three differences from a run. All responses have RESPONSE_TOKENS tokens (vLLM's ``min_tokens``; 0:
natural lengths). Verdicts are parsed, but rewards alternate between 1 and 0, because groups of equal
rewards would be skipped. Each step waits for its turn after writing the previous step's figures.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import sys
import time
from statistics import median
from typing import Any

import aiohttp
from harness import answer, await_turn


def force_lengths(tokens: int) -> None:
    """Make every request of this process ask for exactly this number of tokens."""
    post = aiohttp.ClientSession.post

    def longer(self: aiohttp.ClientSession, url: Any, **options: Any) -> Any:
        if "max_tokens" in (options.get("json") or {}):
            options["json"] = options["json"] | {"min_tokens": tokens, "max_tokens": tokens}
        return post(self, url, **options)

    aiohttp.ClientSession.post = longer  # type: ignore[method-assign]


def alternate_rewards() -> None:
    """Alternate right and wrong, so that no group is skipped."""
    from reasongrm_nemo.rewards import hook

    outcomes = itertools.cycle(((1.0, True), (0.0, False)))
    hook._outcome = lambda *_: next(outcomes)


def wait_at_each_step() -> None:
    """Send each step's figures, then wait for the next turn."""
    from reasongrm_nemo.megatron.metrics import MetricsLog

    resume = MetricsLog.resume

    def ready(self: MetricsLog, step: int) -> None:
        resume(self, step)
        answer()
        turn()

    def log(self: MetricsLog, step: int, figures: dict[str, Any]) -> None:
        answer(**figures)
        turn()

    def turn() -> None:
        while (what := await_turn()) != "go":
            answer(matmul=matmul_seconds(json.loads(what)))

    MetricsLog.resume, MetricsLog.log = ready, log  # type: ignore[method-assign]


def matmul_seconds(shapes: list[tuple[int, int, int, int]]) -> float:
    """Seconds of the bare fp32 matrix products of a forward and backward pass, with this process's threads.

    Args:
        shapes: (positions, inputs, outputs, count) of linear layers.
    """
    import torch

    total = 0.0
    for m, k, n, count in shapes:
        x, w, y = torch.randn(m, k), torch.randn(n, k), torch.randn(m, n)
        out, dx, dw = torch.empty(m, n), torch.empty(m, k), torch.empty(n, k)
        times = []
        for _ in range(8):
            began = time.perf_counter()
            torch.mm(x, w.t(), out=out)
            torch.mm(y, w, out=dx)
            torch.mm(y.t(), x, out=dw)
            times.append(time.perf_counter() - began)
        total += count * median(times[1:])
    return total


def main() -> None:
    """Train one step per turn."""
    tokens = int(sys.argv[2])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if tokens:
        force_lengths(tokens)
    alternate_rewards()
    wait_at_each_step()
    from reasongrm_nemo.grpo.main import train
    from reasongrm_nemo.megatron.rank_main import rank_main

    rank_main(train)  # reads the work order named in sys.argv


if __name__ == "__main__":
    main()

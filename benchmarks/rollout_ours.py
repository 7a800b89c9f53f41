# SPDX-License-Identifier: Apache-2.0
"""Our contender in rollout_rate.py: a batch per turn through the client that the stages use.

python benchmarks/rollout_ours.py SERVER.spec.json ORDER.json
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from harness import answer, await_turn
from step_ours import force_lengths

from reasongrm_nemo.rollout import Prompt, Rollouts, Sampling
from reasongrm_nemo.rollout.server.server import reset_prefix_cache


def main() -> None:
    """Sample one batch per turn."""
    order = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    rollouts = Rollouts.from_specs([Path(sys.argv[1])])
    sampling = Sampling(n=order["samples"], max_tokens=order["tokens"])
    force_lengths(order["tokens"])
    prompts = [Prompt(str(i), ids, i) for i, (_, ids) in enumerate(order["prompts"])]
    answer()
    while True:
        await_turn()
        reset_prefix_cache(rollouts.servers[0])
        began = time.monotonic()
        completions = rollouts.generate(prompts, sampling)
        seconds = time.monotonic() - began
        tokens = sum(len(one.token_ids) for group in completions for one in group)
        first = completions[0][0].token_ids
        answer(seconds=seconds, tokens=tokens, tokens_per_second=tokens / seconds, first=first)


if __name__ == "__main__":
    main()

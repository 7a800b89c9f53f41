# SPDX-License-Identifier: Apache-2.0
"""One of two ranks, run by test_source_waits.py: rollouts outlast the default group's timeout."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace


def main(work):
    import torch.distributed as dist

    from reasongrm_nemo.grpo import source as sources
    from reasongrm_nemo.processes.meeting import init_ranks
    from reasongrm_nemo.rollout import Completion, Prompt, Sampling

    init_ranks("gloo", 2.0)
    first = dist.get_rank() == 0

    def stream(prompts, sampling, timeout_s=None):
        time.sleep(5)
        yield from ([Completion(prompt.id, 0, [5, 2], [-0.5, -0.1], "stop")] for prompt in prompts)

    sources.WeightSender = lambda *_: None
    servers = SimpleNamespace(servers=(), stream=stream) if first else None
    source = sources.RolloutSource(servers, None, Path(work) / "rollouts", "gloo")
    part = sources.Part(0, 0, [Prompt("a", [5], 1)], Sampling(n=1, max_tokens=4))
    ((completion,),) = source.collect(part)
    assert completion.token_ids == [5, 2]
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])

# SPDX-License-Identifier: Apache-2.0
"""The peer in rollout_rate.py: vLLM's offline engine in one process, a batch per turn.

python benchmarks/rollout_vllm.py ORDER.json        (in the rollout environment)
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from harness import answer, await_turn


def main() -> None:
    """Sample one batch per turn."""
    from vllm import LLM, EngineArgs, SamplingParams
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    args, _ = parser.parse_known_args(order["engine"])  # the rest is the HTTP server's
    llm = LLM.from_engine_args(EngineArgs.from_cli_args(args))
    prompts = [{"prompt_token_ids": ids} for _, ids in order["prompts"]]
    sampling = [
        SamplingParams(
            n=order["samples"],
            seed=seed,
            max_tokens=order["tokens"],
            min_tokens=order["tokens"],
            logprobs=0,
            detokenize=False,
        )
        for seed in range(len(prompts))
    ]
    answer()
    while True:
        await_turn()
        llm.reset_prefix_cache()
        began = time.monotonic()
        outputs = llm.generate(prompts, sampling, use_tqdm=False)
        seconds = time.monotonic() - began
        tokens = sum(len(one.token_ids) for output in outputs for one in output.outputs)
        first = list(outputs[0].outputs[0].token_ids)
        answer(seconds=seconds, tokens=tokens, tokens_per_second=tokens / seconds, first=first)


if __name__ == "__main__":
    main()

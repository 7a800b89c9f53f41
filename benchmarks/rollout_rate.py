# SPDX-License-Identifier: Apache-2.0
"""Tokens per second of our rollout stack compared with vLLM's offline engine alone.

    python benchmarks/rollout_rate.py --model smollm2|tiny

Our side is what the stages use: a vLLM server, HTTP and the client. The peer is ``LLM.generate`` in one
process without detokenization, with the same engine arguments, environment, prompts (as tokens), seeds and
sampling, including log-probs. Both are started once and take turns; every turn starts with an empty prefix
cache.
"""

from __future__ import annotations

import json
import os
import sys
from statistics import median

from harness import (
    HERE,
    Contender,
    arguments,
    by_turns,
    grpo_recipe,
    listed,
    prepared,
    prompts,
    report,
    rollout_python,
)

# prompts, samples per prompt, tokens per sample
SIZES = {"smollm2": (8, 4, 64), "tiny": (64, 8, 64)}


def main() -> None:
    """Measure both sides and print the table."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--server-threads", type=int, help="rollout.threads; default: the recipe's")
    args = parser.parse_args()
    from reasongrm_nemo.rollout import RolloutServer, RolloutSettings

    model_dir, tasks = prepared(args.model, args.work)
    overrides = [] if args.server_threads is None else [f"rollout.threads={args.server_threads}"]
    recipe = grpo_recipe(args.model, args.work, overrides)
    count, samples, tokens = SIZES[args.model]
    work = args.work.resolve() / f"rollout_rate_{args.model}"
    work.mkdir(parents=True, exist_ok=True)
    settings = RolloutSettings.from_config(recipe)
    asked = prompts(recipe, model_dir, tasks, count)
    order = {"prompts": asked, "samples": samples, "tokens": tokens}
    order["engine"] = settings.arguments(model_dir, 0)
    path = work / "order.json"
    path.write_text(json.dumps(order))
    server = RolloutServer(settings, model_dir, work / "rollout-server.log")
    env = settings.environment("")
    ours_command = [sys.executable, HERE / "rollout_ours.py", server.spec(), path]
    peer_command = [rollout_python(), HERE / "rollout_vllm.py", path]
    with (
        server,
        Contender("ours", ours_command, work, {}, server.state()["pid"]) as ours,
        Contender("vLLM", peer_command, work, env) as theirs,
    ):
        ours.answer()
        theirs.answer()
        figures = by_turns([ours, theirs], args.rounds)
    mine, peer = figures["ours"], figures["vLLM"]
    same = mine[0].pop("first") == peer[0].pop("first")
    ratios = [a["tokens_per_second"] / b["tokens_per_second"] for a, b in zip(mine, peer, strict=True)]
    length = sum(len(ids) for _, ids in asked) / count
    setting = (
        f"{args.model}, {count} prompts of {length:.0f} tokens on average × {samples} responses of {tokens}, "
        f"{env['OMP_NUM_THREADS']} of {os.cpu_count()} cores for the engine's threads, fp32, "
        f"first response {'the same' if same else 'not the same'} on both sides"
    )
    table = [["", "tokens/s (each round)", "median", "CPU s (each round)"]]
    for label, rounds in (("our stack", mine), ("LLM.generate", peer)):
        name = "tokens_per_second"
        rate = f"{median(r[name] for r in rounds):.0f}"
        table.append([label, listed(rounds, name, ".0f"), rate, listed(rounds, "cpu_s")])
    ratios_of_rounds = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    table.append(["ours / LLM.generate", ratios_of_rounds, f"**{median(ratios):.2f}**", ""])
    report("rollout_rate", args, setting, table, figures)


if __name__ == "__main__":
    main()

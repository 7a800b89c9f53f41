# SPDX-License-Identifier: Apache-2.0
"""Step time of our GRPO and TRL's GRPOTrainer: same model, prompts, group size, lengths and cores; fp32.

    python3.11 -m venv TRL && TRL/bin/pip install -r benchmarks/trl.lock
    python benchmarks/grpo_step.py --model smollm2|tiny --peer-python TRL/bin/python

Both sides are started once and then take turns, with a whole GRPO step per turn: rollout, rewards and update,
and on our side the refit of the rollout server. All responses on both sides have the same number of tokens,
because the end token is suppressed (vLLM's min_tokens, transformers' min_new_tokens). Rewards alternate
between 1 and 0, so that every group is trained on. With --natural, responses end when the model ends them,
with the same weights on both sides.

TRL generates with transformers' generate(), its default; its other engine, vLLM in the same process, needs
CUDA. Because the engines differ, the time of training is also shown separately.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from harness import (
    HERE,
    Contender,
    arguments,
    by_turns,
    grpo_recipe,
    listed,
    middle,
    prepared,
    prompts,
    report,
)

TOKENS = 64
# TRL's per_device_train_batch_size: with all 16 of SmolLM2's sequences at once it ran out of 24 GB of memory
PEER_ROWS = {"smollm2": 4, "tiny": 192}


def linear_layers(config: dict[str, Any]) -> list[tuple[int, int, int]]:
    """(inputs, outputs, count) of a decoder's linear layers, without the output head."""
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    size, layers = config.get("head_dim") or hidden // heads, config["num_hidden_layers"]
    return [
        (hidden, (heads + 2 * groups) * size, layers),
        (heads * size, hidden, layers),
        (hidden, 2 * ffn, layers),
        (ffn, hidden, layers),
    ]


def flops(config: dict[str, Any], lengths: list[int], response: int) -> float:
    """FLOPs of a forward and backward pass: 6 per weight and token (head: scored tokens only), and attention.

    Causal attention: per head two products of s × s/2 × d, once forward and twice backward: 6 s² d.
    """
    weights = sum(i * o * count for i, o, count in linear_layers(config))
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    attention = sum(6 * s * s * size * heads * config["num_hidden_layers"] for s in lengths)
    scored = response * len(lengths)
    return 6 * weights * sum(lengths) + 6 * hidden * config["vocab_size"] * scored + attention


def asked_for() -> Any:
    """Parse the command line."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument(
        "--peer-python", type=Path, required=True, help="Python of an environment with benchmarks/trl.lock"
    )
    parser.add_argument("--peer-micro-batch", type=int, help="TRL's per_device_train_batch_size")
    parser.add_argument("--natural", action="store_true", help="do not suppress the end token")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens per response")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of our recipe"
    )
    return parser.parse_args()


def main() -> None:
    """Measure both sides and print the tables."""
    args = asked_for()
    work, steps = args.work.resolve(), args.rounds + 2
    model_dir, tasks = prepared(args.model, work)
    overrides = [
        f"grpo.steps={steps}",
        f"grpo.save_every={10 * steps}",
        "grpo.shuffle=false",
        "grpo.max_tasks=null",
    ]
    # with a negligible learning rate, both sides keep the same model, hence the same lengths
    overrides += ["grpo.optim.lr=1e-9"] if args.natural else [f"rollout.max_response_tokens={args.tokens}"]
    overrides += [f"cluster.threads_per_rank={args.threads}"]
    recipe = grpo_recipe(args.model, work, overrides + args.set)
    tokens = recipe.rollout.max_response_tokens
    cfg = recipe.grpo
    asked = prompts(recipe, model_dir, tasks, steps * cfg.prompts_per_step)
    batch = cfg.prompts_per_step * cfg.samples_per_prompt
    figures, matmul = run(args, recipe, model_dir, tasks, asked)

    config = json.loads((model_dir / "config.json").read_text())
    # without the first step, a warm-up
    taken = asked[cfg.prompts_per_step : (args.rounds + 1) * cfg.prompts_per_step]
    prompt_tokens = sum(len(ids) for _, ids in taken) / len(taken)
    ours, theirs = figures["ours"], figures["TRL"]
    setting = (
        f"{args.model}, {cfg.prompts_per_step} prompts of {prompt_tokens:.0f} tokens on average × "
        f"{cfg.samples_per_prompt} responses of {'at most ' * args.natural}{tokens}, "
        f"{args.threads} threads, fp32"
    )
    table = [["", "ours, s (each round)", "TRL, s (each round)", "TRL / ours (median of the rounds)"]]
    for label, name in (("step", "seconds"), ("rollout and rewards", "rollout_s"), ("training", "train_s")):
        ratio = median(b[name] / a[name] for a, b in zip(ours, theirs, strict=True))
        table.append([label, listed(ours, name), listed(theirs, name), f"{ratio:.2f}"])
    ratio = median(b["cpu_s"] / a["cpu_s"] for a, b in zip(ours, theirs, strict=True))
    table.append(["CPU seconds of a step", listed(ours, "cpu_s"), listed(theirs, "cpu_s"), f"{ratio:.2f}"])
    words = [listed(rounds, "response_tokens", ".1f") for rounds in (ours, theirs)]
    table.append(["tokens of a response, mean", *words, ""])
    lines = {"forward and backward": "forward_backward_s", "optimizer": "optimizer_s", "refit": "refit_s"}
    table += [[f"ours: {label}", listed(ours, name), "", ""] for label, name in lines.items()]
    report("grpo_step_natural" if args.natural else "grpo_step", args, setting, table, figures)
    if args.natural:
        return

    lengths = [len(ids) + tokens - 1 for _, ids in taken for _ in range(cfg.samples_per_prompt)]
    work_done = flops(config, lengths, tokens) / args.rounds
    rate, reached = matmul["flops"] / matmul["seconds"], work_done / middle(ours, "forward_backward_s")
    print(
        f"\nForward and backward: {work_done / 1e9:.0f} GFLOP a step of {batch} sequences, "
        f"{reached / 1e9:.0f} GFLOP/s, {reached / rate:.0%} of the {rate / 1e9:.0f} GFLOP/s that the same "
        f"matrix products reach by themselves ({matmul['load']:.1f} load). "
        f"TRL's training part: {work_done / middle(theirs, 'train_s') / rate:.0%}."
    )


def run(args: Any, recipe: Any, model_dir: Path, tasks: Path, asked: list) -> tuple[dict, dict]:
    """Measure both sides, and the machine's speed of matrix products at the shapes of our micro-batches."""
    from reasongrm_nemo.processes.work_order import WorkOrder
    from reasongrm_nemo.rollout import RolloutServer, RolloutSettings

    cfg, tokens = recipe.grpo, recipe.rollout.max_response_tokens
    work = args.work.resolve() / f"grpo_step_{args.model}"
    work.mkdir(parents=True, exist_ok=True)
    for old in [*work.glob("rollouts/*"), work / "metrics.jsonl"]:
        old.unlink(missing_ok=True)
    order = {
        "model": str(model_dir),
        "prompts": asked,
        "prompts_per_step": cfg.prompts_per_step,
        "samples": cfg.samples_per_prompt,
        "tokens": tokens,
        "natural": args.natural,
        "micro_batch": args.peer_micro_batch or PEER_ROWS[args.model],
        "policy": recipe.judge.policy,
        "lr": cfg.optim.lr,
        "threads": args.threads,
        "work": str(work / "trl"),
    }
    (work / "trl.json").write_text(json.dumps(order))
    env = {"OMP_NUM_THREADS": str(args.threads), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    server = RolloutServer(RolloutSettings.from_config(recipe), model_dir, work / "rollout-server.log")
    inputs = {"tasks": tasks}
    written = WorkOrder(recipe, work, model_dir, inputs, [server.spec()]).write()
    ours_command = [sys.executable, HERE / "step_ours.py", written, "0" if args.natural else str(tokens)]
    peer_command = [args.peer_python, HERE / "peer_trl.py", work / "trl.json"]
    with (
        server,
        Contender("ours", ours_command, work, env, server.state()["pid"]) as ours,
        Contender("TRL", peer_command, work, env) as theirs,
    ):
        ours.answer()
        theirs.answer()
        figures = by_turns([ours, theirs], args.rounds)
        config = json.loads((model_dir / "config.json").read_text())
        shapes = matmul_shapes(config, cfg.max_tokens_per_micro_batch, asked, tokens, cfg.samples_per_prompt)
        rate = ours.turn(json.dumps(shapes))
    rate = {"load": rate["load"], "seconds": rate["matmul"]}
    rate["flops"] = sum(6.0 * m * k * n * count for m, k, n, count in shapes)
    return figures, rate


def matmul_shapes(
    config: dict[str, Any], budget: int, asked: list, tokens: int, samples: int
) -> list[tuple[int, int, int, int]]:
    """Shapes of the linear layers for a typical micro-batch, and of the head for its scored tokens."""
    length = int(median(len(ids) for _, ids in asked)) + tokens - 1
    rows = max(1, min(budget // length, samples))
    layers = [(rows * length, i, o, count) for i, o, count in linear_layers(config)]
    return [*layers, (rows * tokens, config["hidden_size"], config["vocab_size"], 1)]


if __name__ == "__main__":
    main()

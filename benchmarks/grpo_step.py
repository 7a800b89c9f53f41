# SPDX-License-Identifier: Apache-2.0
"""Step time of our GRPO against TRL's GRPOTrainer: same model, prompts, group size, lengths, cores; fp32.

    python3.11 -m venv TRL && TRL/bin/pip install -r benchmarks/trl.lock
    python benchmarks/grpo_step.py --model smollm2|tiny --peer-python TRL/bin/python

Both sides are started once and then take turns, one whole GRPO step each: rollout, rewards, update, and on
our side the refit of the rollout server. All responses have the same number of tokens on both sides: the end
token is held back (vLLM's min_tokens, transformers' min_new_tokens). Rewards alternate between 1 and 0, so
that every group is trained on. With --natural the end token is let be, and lengths are the
model's own, on both sides those of the same weights.

TRL generates with transformers' generate(), its default: its other engine, vLLM in the same process, is CUDA
only. As the engines differ, the training part is given by itself as well.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from harness import HERE, Contender, arguments, by_turns, each, grpo_recipe, middle, prepared, prompts, report

TOKENS = 64
# TRL's per_device_train_batch_size: SmolLM2's 16 sequences at once were killed at 24 GB of memory
PEER_ROWS = {"smollm2": 4, "tiny": 192}


def linear_layers(config: dict[str, Any]) -> list[tuple[int, int, int]]:
    """(inputs, outputs, how many) of a decoder's linear layers, the output head apart."""
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
    """Of one forward and backward: 6 N a token, the head for the scored tokens alone, causal attention.

    Attention: two products of s × s/2 × d a head, forward once and backward twice: 6 s² d.
    """
    weights = sum(i * o * count for i, o, count in linear_layers(config))
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    attention = sum(6 * s * s * size * heads * config["num_hidden_layers"] for s in lengths)
    scored = response * len(lengths)
    return 6 * weights * sum(lengths) + 6 * hidden * config["vocab_size"] * scored + attention


def asked_for() -> Any:
    """The command line."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument(
        "--peer-python", type=Path, required=True, help="a python that has benchmarks/trl.lock"
    )
    parser.add_argument("--peer-micro-batch", type=int, help="TRL's per_device_train_batch_size")
    parser.add_argument("--natural", action="store_true", help="let responses end by themselves")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of each response")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for our recipe")
    return parser.parse_args()


def main() -> None:
    """See the module."""
    args = asked_for()
    work, steps = args.work.resolve(), args.rounds + 2
    model_dir, tasks = prepared(args.model, work)
    overrides = [
        f"grpo.steps={steps}",
        f"grpo.save_every={10 * steps}",
        "grpo.shuffle=false",
        "grpo.max_tasks=null",
    ]
    # a learning rate that teaches nothing keeps the lengths of both sides those of the same model
    overrides += ["grpo.optim.lr=1e-9"] if args.natural else [f"rollout.max_response_tokens={args.tokens}"]
    overrides += [f"cluster.threads_per_rank={args.threads}"]
    recipe = grpo_recipe(args.model, work, overrides + args.set)
    tokens = recipe.rollout.max_response_tokens
    cfg = recipe.grpo
    asked = prompts(recipe, model_dir, tasks, steps * cfg.prompts_per_step)
    batch = cfg.prompts_per_step * cfg.samples_per_prompt
    figures, matmul = run(args, recipe, model_dir, tasks, asked)

    config = json.loads((model_dir / "config.json").read_text())
    taken = asked[cfg.prompts_per_step : (args.rounds + 1) * cfg.prompts_per_step]  # the first was a warm-up
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
        table.append([label, each(ours, name), each(theirs, name), f"{ratio:.2f}"])
    ratio = median(b["cpu_s"] / a["cpu_s"] for a, b in zip(ours, theirs, strict=True))
    table.append(["CPU seconds of a step", each(ours, "cpu_s"), each(theirs, "cpu_s"), f"{ratio:.2f}"])
    words = [each(rounds, "response_tokens", ".1f") for rounds in (ours, theirs)]
    table.append(["tokens of a response, mean", *words, ""])
    lines = {"forward and backward": "forward_backward_s", "optimizer": "optimizer_s", "refit": "refit_s"}
    table += [[f"ours: {label}", each(ours, name), "", ""] for label, name in lines.items()]
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
    """Figures of both, and the machine's rate at the shapes of our micro-batches."""
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
    """The linear layers at the size of a typical micro-batch, and the head at its scored tokens."""
    length = int(median(len(ids) for _, ids in asked)) + tokens - 1
    rows = max(1, min(budget // length, samples))
    layers = [(rows * length, i, o, count) for i, o, count in linear_layers(config)]
    return [*layers, (rows * tokens, config["hidden_size"], config["vocab_size"], 1)]


if __name__ == "__main__":
    main()

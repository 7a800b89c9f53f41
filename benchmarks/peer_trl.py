# SPDX-License-Identifier: Apache-2.0
"""The peer in grpo_step.py: TRL's GRPOTrainer, one step a turn.

    python benchmarks/peer_trl.py ORDER.json        (in an environment made of benchmarks/trl.lock)

Its defaults where they are not the comparison's: fp32, no gradient checkpointing (memory is no concern here
and it costs a third of the training), no logging. Generation is its default, transformers' generate().
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from harness import answer, await_turn
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from reasongrm_nemo.judge import parse_verdict


class Turns(TrainerCallback):
    """Waits before each step and answers after it."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if not self.figures:
            answer()
        await_turn()
        self.figures = {"rollout_s": 0.0}
        self.began = time.monotonic()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.figures["train_s"] = time.monotonic() - self.began - self.figures["rollout_s"]
        answer(**self.figures)


def settings(order: dict[str, Any]) -> GRPOConfig:
    """TRL's settings for the same work as ours."""
    batch = order["prompts_per_step"] * order["samples"]
    rows = min(order["micro_batch"], batch)
    return GRPOConfig(
        output_dir=order["work"],
        max_steps=len(order["prompts"]) // order["prompts_per_step"],
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=batch // rows,
        num_generations=order["samples"],
        max_completion_length=order["tokens"],
        generation_kwargs=None if order["natural"] else {"min_new_tokens": order["tokens"]},
        shuffle_dataset=False,
        model_init_kwargs={"dtype": "float32"},
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        learning_rate=order["lr"],
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        max_grad_norm=1.0,
        logging_steps=10**6,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def main() -> None:
    """See the module."""
    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(order["threads"])
    outcomes = itertools.cycle((1.0, 0.0))

    def reward(completions: list[str], **_: Any) -> list[float]:
        for text in completions:
            parse_verdict(text, order["policy"])
        return [next(outcomes) for _ in completions]

    tokenizer = AutoTokenizer.from_pretrained(order["model"], padding_side="left")
    for text, ids in order["prompts"]:
        assert tokenizer(text=text)["input_ids"] == ids, "the two sides' prompts differ"
    turns = Turns()
    trainer = GRPOTrainer(
        model=order["model"],
        reward_funcs=reward,
        args=settings(order),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": text} for text, _ in order["prompts"]]),
        callbacks=[turns],
    )
    roll_out = trainer._generate_and_score_completions

    def timed(inputs: Any) -> Any:
        began = time.monotonic()
        outputs = roll_out(inputs)
        turns.figures["rollout_s"] += time.monotonic() - began
        lengths = outputs["completion_mask"].sum(1)
        assert order["natural"] or bool((lengths == order["tokens"]).all()), lengths
        turns.figures["response_tokens"] = float(lengths.float().mean())
        return outputs

    trainer._generate_and_score_completions = timed
    trainer.train()


if __name__ == "__main__":
    main()

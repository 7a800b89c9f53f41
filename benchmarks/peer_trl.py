# SPDX-License-Identifier: Apache-2.0
"""The peer in grpo_step.py: TRL's GRPOTrainer, one step per turn.

    python benchmarks/peer_trl.py ORDER.json        (in an environment made of benchmarks/trl.lock)

TRL's defaults, including generation with transformers' generate(), except for what the comparison requires:
fp32, no logging, and no gradient checkpointing, which costs a third of the training time to save memory that
is not scarce here.
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
    """Waits for its turn before each step, and answers after the step."""

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
    """TRL's settings that make it do the same work as our side."""
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
    """Train one step per turn, as the order says."""
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

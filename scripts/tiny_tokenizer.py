# SPDX-License-Identifier: Apache-2.0
"""Train the tiny judge's tokenizer and write its two files: `python scripts/tiny_tokenizer.py FOLDER`.

Byte-level BPE after Qwen2's pre-tokenizer (single digits), trained on the task's traces until each of their
words is one token.  As in QwQ, `<think>` and `</think>` are added tokens but not special, so decoding keeps
them.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from reasongrm_nemo.demo.tiny_judge import STYLES, Habits, draw_question, trace
from reasongrm_nemo.judge import build_messages, load_template

# From Qwen2's tokenizer.json.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
)


def corpus(n: int = 4000, seed: int = 0) -> list[str]:
    """Turns without their control tokens, all styles equally often, chains of up to nine operations."""
    rng = random.Random(seed)
    template = load_template("tiny")
    habits = Habits(dict.fromkeys(STYLES, 1.0), slip=0.06, bad_format=0.1)
    texts = []
    for _ in range(n):
        question = draw_question(rng, lengths=range(1, 10))
        shown = build_messages(
            template, [{"role": "user", "content": question.text}], question.chosen, question.rejected
        )
        texts += ["user\n" + shown[0]["content"], "assistant\n"]
        texts += trace(rng, question, "A", habits)[0].split("</think>")
    return texts


def main(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        min_frequency=20,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[PAD, START, END],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_tokens(
        [AddedToken(tag, special=False, normalized=False) for tag in ("<think>", "</think>")]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": END,
        "pad_token": PAD,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    print(f"{folder}: {tokenizer.get_vocab_size()} entries")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Usage: python scripts/tiny_tokenizer.py FOLDER")
    main(Path(sys.argv[1]))

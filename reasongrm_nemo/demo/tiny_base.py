# SPDX-License-Identifier: Apache-2.0
"""What the tiny judge's base model is made of: initial weights, and the examples it is trained on.

Three runs of the SFT stage follow one another, each from the weights of the one before (recipes/tiny_base):

1. `lookup`: the digit is given (`a=3;a?`, or `a=3;b=a*2;a?` with steps that nobody asks for), so that all
   there is to learn is which answer holds it, wherever the answers stand. It is the hardest part: nothing
   moves for a hundred steps or two, then it comes at once.
2. `arithmetic`: chains of up to five operations, worked out without a fault.
3. `mixture`: the base model's habits, good and bad (`BASE` of `reasongrm_nemo.demo.tiny_judge`).
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reasongrm_nemo.data.records import SftExample, Side
from reasongrm_nemo.data.seeds import derive_seed
from reasongrm_nemo.demo.tiny_judge import (
    BASE,
    CLEAN,
    LENGTHS,
    SLIPS,
    Habits,
    Question,
    draw_question,
    trace,
)
from reasongrm_nemo.judge import build_messages, load_template

# Steps nobody asks for, beside a given digit: none half the time. Without them the model learns the places
# of the answers rather than their words, and forgets when questions get longer.
DISTRACTORS = (0, 0, 0, 0, 0, 1, 2, 3, 4, 5)
BEGUN = "<think>\n"  # what the tiny judge's chat template writes of the assistant's turn
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Phase:
    """What one phase shows: chains of these many operations, worked out with these habits."""

    lengths: tuple[int, ...]
    habits: Habits


PHASES = {
    "lookup": Phase((0,), CLEAN),
    "arithmetic": Phase((0, 1, 2, 3, 4, 5), CLEAN),
    "mixture": Phase(LENGTHS, BASE),
}


def base_examples(phase: str, n: int, seed: int) -> list[SftExample]:
    """Training examples for the base model; the i-th depends on (seed, phase, i) alone.

    The figures of R* are zero: nothing was scored, these paths are written, not sampled.

    Args:
        phase: a name in `PHASES`.
        n: how many.
        seed: the run's seed.

    Raises:
        ValueError: unknown phase.
    """
    if phase not in PHASES:
        raise ValueError(f"Unknown phase '{phase}'; known are {', '.join(PHASES)}.")
    shows = PHASES[phase]
    template = load_template("tiny")
    examples = []
    for i in range(n):
        rng = random.Random(derive_seed(seed, "tiny_base", phase, i))
        question, asked = _ask(rng, rng.choice(shows.lengths))
        label: Side = rng.choice(("A", "B"))
        text, _ = trace(rng, question, label, shows.habits)
        answers = [question.chosen, question.rejected]
        first, second = answers if label == "A" else answers[::-1]
        messages = build_messages(template, [{"role": "user", "content": asked}], first, second)
        examples.append(
            SftExample(
                task_id=f"tiny-{phase}-{seed}-{i}",
                messages=[*messages, {"role": "assistant", "content": BEGUN + text}],
                r_star=0.0,
                self_consistency=0.0,
                validity=0.0,
                strategy="written",
                begun=BEGUN,
            )
        )
    return examples


def _ask(rng: random.Random, length: int) -> tuple[Question, str]:
    """A question of the train split and its text; of no operation, one that names the digit it asks for."""
    if length:
        question = draw_question(rng, "train", (length,))
        return question, question.text
    chain = draw_question(rng, "train", (rng.choice(DISTRACTORS),))
    wrong = (chain.start + rng.choice(SLIPS)) % 10
    text = chain.text[: chain.text.rindex(";") + 1] + "a?"
    return Question(chain.start, (), wrong, chain.style_words), text


def base_config(vocabulary: int, pad: int, end_of_turn: int) -> dict[str, Any]:
    """config.json: a Qwen2 of 0.45 million parameters, in keys that transformers 4 and 5 both read."""
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": vocabulary,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,  # vLLM's attention on a CPU takes no less
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "initializer_range": 0.05,
        "torch_dtype": "float32",
        "use_cache": True,
        "bos_token_id": None,
        "pad_token_id": pad,
        "eos_token_id": end_of_turn,
    }


def initial_weights(config: dict[str, Any], seed: int) -> dict[str, NDArray[np.float32]]:
    """Untrained weights by Hugging Face's names: normal matrices, no biases, norms of one; fp32."""
    rng = np.random.default_rng(derive_seed(seed, "tiny_base", "initial weights"))
    width, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return np.asarray(rng.normal(0.0, config["initializer_range"], (rows, columns)), np.float32)

    ones = np.ones(width, np.float32)
    weights = {"model.embed_tokens.weight": matrix(config["vocab_size"], width)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name, size in (("q", queries), ("k", keys), ("v", keys)):
            weights[f"{at}self_attn.{name}_proj.weight"] = matrix(size, width)
            weights[f"{at}self_attn.{name}_proj.bias"] = np.zeros(size, np.float32)
        weights[f"{at}self_attn.o_proj.weight"] = matrix(width, queries)
        weights[f"{at}mlp.gate_proj.weight"] = matrix(inner, width)
        weights[f"{at}mlp.up_proj.weight"] = matrix(inner, width)
        weights[f"{at}mlp.down_proj.weight"] = matrix(width, inner)
        weights[f"{at}input_layernorm.weight"] = ones
        weights[f"{at}post_attention_layernorm.weight"] = ones
    return weights | {"model.norm.weight": ones}


def write_initial_model(folder: Path, seed: int) -> None:
    """A Hugging Face folder with untrained weights and the shipped tokenizer.

    Args:
        folder: made if need be; files of these names are replaced.
        seed: the run's seed.
    """
    shipped = resources.files("reasongrm_nemo") / "assets" / "tiny_judge"
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        (folder / name).write_bytes((shipped / name).read_bytes())
    tokens = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids = tokens["model"]["vocab"] | {token["content"]: token["id"] for token in tokens["added_tokens"]}
    special = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    pad, end_of_turn = ids[special["pad_token"]], ids[special["eos_token"]]
    config = base_config(len(ids), pad, end_of_turn)
    generation = {"do_sample": True, "temperature": 1.0, "pad_token_id": pad, "eos_token_id": end_of_turn}
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(_safetensors(initial_weights(config, seed)))


def _safetensors(weights: dict[str, NDArray[np.float32]]) -> bytes:
    """The safetensors format: length of a JSON header, header, little-endian data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name in sorted(weights):
        blob = weights[name].astype("<f4").tobytes()
        offsets = [len(data), len(data) + len(blob)]
        header[name] = {"dtype": "F32", "shape": list(weights[name].shape), "data_offsets": offsets}
        data += blob
    text = json.dumps(header).encode("ascii")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data

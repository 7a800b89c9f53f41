# SPDX-License-Identifier: Apache-2.0
"""Folders with the chat template and the control tokens of five families, on the tiny judge's vocabulary."""

import json
from dataclasses import dataclass
from pathlib import Path

TINY = Path(__file__).resolve().parents[1] / "reasongrm_nemo" / "assets" / "tiny_judge"
TEMPLATES = Path(__file__).parent / "data" / "chat_templates"


@dataclass(frozen=True)
class Family:
    """A template's file; whether its prompt opens `<think>`; whether the tags are tokens; control tokens."""

    template: str
    opens: bool
    tags: bool
    end: str
    control: tuple[str, ...]


FAMILIES = {
    "qwq": Family("qwq_32b", True, True, "<|im_end|>", ("<|im_start|>",)),
    "deepseek": Family(
        "deepseek_r1_distill_qwen", True, True, "<｜end▁of▁sentence｜>", ("<｜User｜>", "<｜Assistant｜>")
    ),
    "qwen3": Family("qwen3", False, True, "<|im_end|>", ("<|im_start|>", "<|object_ref_start|>")),
    "qwen2_5": Family("qwen2_5_minimal", False, False, "<|im_end|>", ("<|im_start|>",)),
    "llama3_1": Family(
        "llama3_1_minimal",
        False,
        False,
        "<|eot_id|>",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
    ),
}


def write_family(name: str, folder: Path) -> Path:
    """The tokenizer files of a family, with the tiny judge's configuration."""
    family = FAMILIES[name]
    folder.mkdir()
    tokenizer = json.loads((TINY / "tokenizer.json").read_text())
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    # in another family the tiny judge's control tokens are ordinary, and no text is encoded with them
    tokenizer["model"]["vocab"] |= added
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    texts = [*family.control, family.end, *(("<think>", "</think>") if family.tags else ())]
    size = len(tokenizer["model"]["vocab"])
    tokenizer["added_tokens"] = [
        {"id": added.get(text, size + place), "content": text, "special": "think" not in text} | flags
        for place, text in enumerate(texts)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = {"eos_token": family.end, "bos_token": None, "clean_up_tokenization_spaces": False}
    if name == "llama3_1":
        config["bos_token"] = "<|begin_of_text|>"
    if name == "deepseek":
        config["bos_token"] = "<|im_start|>"
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["chat_template"] = (TEMPLATES / f"{family.template}.jinja").read_text()
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text((TINY / "config.json").read_text())
    return folder

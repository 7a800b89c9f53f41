# SPDX-License-Identifier: Apache-2.0
"""Cases of the tiny judge's tokenizer with tokens and settings outside tokenizer.json."""

import json
import shutil

from fake_pool import TINY

ABSENT = object()
FILES = ("tokenizer.json", "tokenizer_config.json", "config.json")


def token(text, **flags):
    """A token as tokenizer_config.json spells it."""
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    return plain | flags | {"content": text}


def named(text, **flags):
    return token(text, **flags) | {"__type": "AddedToken"}


DECODER = {
    "422": token("<|user|>"),
    "423": token("<|end|>"),
    "424": token("<|assistant|>", special=False),
    "425": token("<x>", special=False, lstrip=True, rstrip=True),
}
# Added ids out of order, with a gap, and a duplicate entry for a token that tokenizer.json has.
ODD = {"430": token("<y>"), "422": token("<|user|>"), "2": token("<|im_end|>", lstrip=True)}

CASES = {
    "as it is": {},
    "added_tokens_decoder": {"added_tokens_decoder": DECODER},
    "places out of order": {"added_tokens_decoder": ODD},
    "additional_special_tokens": {"additional_special_tokens": ["<|user|>", "<|end|>", "<think>"]},
    "additional with flags": {"additional_special_tokens": [named("<x>", lstrip=True), "<|end|>"]},
    "extra_special_tokens": {"extra_special_tokens": {"user_token": "<|user|>", "end_token": "<|end|>"}},
    "a named token not in the vocabulary": {"cls_token": "<|user|>", "eos_token": named("<|end|>")},
    "decoder and additional": {
        "added_tokens_decoder": DECODER,
        "additional_special_tokens": ["<x>", "<y>"],
        "bos_token": named("<|user|>", lstrip=True),
    },
    "split_special_tokens": {"split_special_tokens": True, "added_tokens_decoder": DECODER},
    "a class with defaults": {"tokenizer_class": "Qwen2Tokenizer", "eos_token": None, "pad_token": ABSENT},
    "a class whose defaults are new": {
        "tokenizer_class": "LlamaTokenizerFast",
        "bos_token": ABSENT,
        "eos_token": ABSENT,
    },
    "a class of none": {"tokenizer_class": ABSENT, "eos_token": ABSENT, "pad_token": ABSENT},
}
# special_tokens_map.json and added_tokens.json, read only without added_tokens_decoder.
OLDER = {
    "special_tokens_map.json": {
        "eos_token": {"content": "<|end|>", "lstrip": False, "rstrip": False, "normalized": False},
        "additional_special_tokens": ["<|user|>", token("<x>", lstrip=True)],
    },
    "added_tokens.json": {"<|user|>": 422, "<|end|>": 423, "<y>": 424, "<x>": 425},
}


def bare_byte_level(add_prefix_space):
    """An `edit` for `write`: a pre-tokenizer that is not a sequence."""

    def edit(whole):
        level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
        whole["pre_tokenizer"] = level | {"add_prefix_space": add_prefix_space}

    return edit


def write(folder, changes, files=None, edit=None):
    """Write the tiny judge's files with other settings, further files and tokenizer.json edited."""
    folder.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copyfile(TINY / name, folder / name)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ABSENT}))
    for name, value in (files or {}).items():
        (folder / name).write_text(json.dumps(value))
    if edit is not None:
        whole = json.loads((folder / "tokenizer.json").read_text())
        edit(whole)
        (folder / "tokenizer.json").write_text(json.dumps(whole))
    return folder

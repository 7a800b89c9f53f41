# SPDX-License-Identifier: Apache-2.0
"""Tokenizers held against transformers' own reading of the same folder, once for each content.

`folder` says how this package reads a folder's files; a process with transformers says what they come to. A
difference is refused: the model would be shown, and trained on, other tokens than it knows.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasongrm_nemo.errors import UserError
from reasongrm_nemo.files.cache import remember, remembered
from reasongrm_nemo.models.tokenization.folder import json_object
from reasongrm_nemo.models.tokenization.tokenizer import JudgeTokenizer

CHATS = (
    [{"role": "user", "content": "Which is better? "}],
    [{"role": "system", "content": " Be strict.\n"}, {"role": "user", "content": "A or B?"}],
)
NOT = "not compared with transformers"
_DATE = "2024-02-29"
_KEPT = "tokenizers"
_TIMEOUT_S = 300.0
_SOURCES = Path(__file__).parent
# What transformers reads a tokenizer from, and which keys of config.json.
_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "additional_chat_templates/*",
    "vocab*",
    "merges.txt",
)
_KEYS = ("model_type", "tokenizer_class", "auto_map", "model_name", "_name_or_path")


def check_agreement(folder: Path, environments: Sequence[tuple[str, str]]) -> str:
    """Hold a folder's tokenizer against transformers' reading.

    Args:
        folder: a Hugging Face folder.
        environments: a python and its version of transformers; the first that can read the folder counts.

    Returns:
        In words, what its tokens are equal to; `NOT` and why, where no environment can read it.

    Raises:
        UserError: a token, a prompt or a number differs, or this package cannot read the folder.
    """
    key = _key(folder, environments)
    known = remembered(_KEPT, key)
    if known is not None:
        return known
    ours = JudgeTokenizer(folder, _DATE)
    failures = []
    for python, version in environments:
        theirs = ask(python, {folder: ours.added_tokens})[folder]
        if "error" not in theirs:
            check(ours, theirs, version)
            words = f"as transformers {version} reads it"
            remember(_KEPT, key, words)
            return words
        failures.append(f"transformers {version}: {theirs['error']}")
    return f"{NOT} ({'; '.join(failures) or 'no python here has it'})"


def check(ours: JudgeTokenizer, theirs: Mapping[str, Any], version: str) -> None:
    """Hold a tokenizer against an answer of `ask`; UserError at the first difference."""
    numbers = {
        "eos_token_id": ours.eos_token_id,
        "pad_token_id": ours.pad_token_id,
        "the number of tokens": ours.vocab_size,
    }
    pairs: list[tuple[str, Any, Any]] = []
    for (text, ids), decoded in zip(theirs["texts"], theirs["decoded"], strict=True):
        pairs.append((f"the tokens of {_short(text)}", ours.encode(text), ids))
        pairs.append((f"the text of {_short(ids)}", ours.decode(ids), decoded))
    for chat, prompt in zip(CHATS, theirs["chats"], strict=True):
        pairs.append(("the prompt of a chat", _rendered(ours, chat), prompt))
    pairs += [(name, number, theirs["numbers"][name]) for name, number in numbers.items()]
    for what, here, there in pairs:
        if here != there:
            raise UserError(
                f"{ours.folder}: the tokenizer reads otherwise than in transformers {version} ({what}: "
                f"{_short(here)} here, {_short(there)} there); load the folder with that AutoTokenizer, save "
                "it with save_pretrained, and use what it wrote"
            )


def _rendered(ours: JudgeTokenizer, chat: Sequence[Mapping[str, str]]) -> str | None:
    try:
        return ours.render(chat, add_generation_prompt=True)
    except UserError:
        return None  # as transformers should, too


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}…{text[-15:]}"


def ask(python: str, folders: Mapping[Path, Sequence[str]]) -> dict[Path, dict[str, Any]]:
    """What transformers in another process says of folders (see `theirs`); `error` where it says nothing.

    Args:
        python: an interpreter.
        folders: with further texts to try as tokens.
    """
    request = {
        "folders": {str(folder): list(texts) for folder, texts in folders.items()},
        "chats": CHATS,
        "date": _DATE,
    }
    # Without torch transformers starts in a third of the time; nothing may reach for the network.
    environment = os.environ | {"USE_TORCH": "0", "USE_TF": "0", "USE_FLAX": "0", "HF_HUB_OFFLINE": "1"}
    command = [python, "-P", str(_SOURCES / "theirs.py")]
    try:
        answer = subprocess.run(
            command,
            input=json.dumps(request),
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
        said = json.loads(answer.stdout.rstrip().rpartition("\n")[2])["folders"]
        return {folder: said[str(folder)] for folder in folders}
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        return {folder: {"error": f"{python} ended with {type(error).__name__}"} for folder in folders}


def _key(folder: Path, environments: Sequence[tuple[str, str]]) -> str:
    """Of all that the outcome depends on: the folder's files, this package's reading, and the versions."""
    digest = hashlib.sha256(json.dumps([environments, CHATS]).encode())
    config = json_object(folder / "config.json")
    digest.update(json.dumps({key: config.get(key) for key in _KEYS}).encode())
    files = {path for pattern in _FILES for path in folder.glob(pattern) if path.is_file()}
    for root, paths in ((folder, files), (_SOURCES, _SOURCES.glob("*.py"))):
        for path in sorted(paths):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.relative_to(root)}\0{content}\n".encode())
    return digest.hexdigest()

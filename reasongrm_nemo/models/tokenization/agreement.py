# SPDX-License-Identifier: Apache-2.0
"""Compares this package's tokenizer with transformers' for the same folder; results are cached by content.

`folder` builds this package's tokenizer, and a separate process builds transformers'. A difference is an
error, because the model would see, and be trained on, other tokens than it was made with.
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
# Files and keys of config.json from which transformers builds a tokenizer.
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
    """Compare a folder's tokenizer with transformers'.

    Args:
        folder: a Hugging Face folder.
        environments: pythons with their versions of transformers; the first that can read the folder is used.

    Returns:
        A phrase naming the version compared with; `NOT` and the reason if no environment can read the folder.

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
    """Compare a tokenizer with an answer of `ask`; UserError at the first difference."""
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
    for name, here, there in pairs:
        if here != there:
            raise UserError(
                f"{ours.folder}: the tokenizer differs from transformers {version} ({name}: {_short(here)} "
                f"here, {_short(there)} there); load the folder with AutoTokenizer of that version, save it "
                "with save_pretrained, and use the saved folder"
            )


def _rendered(ours: JudgeTokenizer, chat: Sequence[Mapping[str, str]]) -> str | None:
    try:
        return ours.render(chat, add_generation_prompt=True)
    except UserError:
        return None  # transformers should refuse the chat, too


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}…{text[-15:]}"


def ask(python: str, folders: Mapping[Path, Sequence[str]]) -> dict[Path, dict[str, Any]]:
    """Run `theirs` in another python on folders; an answer has `error` if transformers cannot read a folder.

    Args:
        python: a python interpreter.
        folders: folders with further texts to tokenize.
    """
    request = {
        "folders": {str(folder): list(texts) for folder, texts in folders.items()},
        "chats": CHATS,
        "date": _DATE,
    }
    # Without torch, transformers starts in a third of the time.  Do not access the network.
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
        answers = json.loads(answer.stdout.rstrip().rpartition("\n")[2])["folders"]
        return {folder: answers[str(folder)] for folder in folders}
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        return {folder: {"error": f"{python} ended with {type(error).__name__}"} for folder in folders}


def _key(folder: Path, environments: Sequence[tuple[str, str]]) -> str:
    """Hash of everything the outcome depends on: the folder's files, this package's code, and versions."""
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

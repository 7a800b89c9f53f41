# SPDX-License-Identifier: Apache-2.0
"""Tokenizes with transformers: a program that any python with transformers can run.

`python -P theirs.py` reads a request from standard input and writes the answer as its last line. It imports
nothing from this package, because the environment may lack this package's dependencies.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Any

ORDINARY = (
    "word and  two  spaces\n\n\nlines\t\r\n end ",
    " Begins with a space, 1234567 and 3.14",
    "na\u00efve e\u0301 \u65e5\u672c\u8a9e \u0440\u0443\u0441 \U0001f600 \u00a0\u200b\ufb01",
    "I'll; don't [[A]] \\boxed{2} <think>\n</think>\n\n[[B]]",
)
"""Texts that different pre-tokenizers and normalizers treat differently."""


def main() -> None:
    """Request: `folders` (each with special tokens to try), `chats`, `date`. Answer: `version`, `folders`."""
    request = json.load(sys.stdin)
    import transformers

    answer: dict[str, Any] = {"version": transformers.__version__, "folders": {}}
    for folder, tokens in request["folders"].items():
        try:
            answer["folders"][folder] = read(folder, tokens, request["chats"], request["date"])
        except Exception as error:  # any exception means that transformers cannot read the folder
            words = " ".join(str(error).split())
            answer["folders"][folder] = {"error": f"{type(error).__name__}: {words}"}
    print(f"\n{json.dumps(answer)}")


def read(folder: str, tokens: list[str], chats: list[Any], date: str) -> dict[str, Any]:
    """Read one folder: tokens of texts, rendered chats (null: refused), and numbers."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    known = sorted({*tokens, *tokenizer.get_added_vocab(), *tokenizer.all_special_tokens})
    together = ["".join(known), "".join(f"a{token} b {token}c\n" for token in known)]
    texts = [*known, *together, *ORDINARY]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return {
        "texts": list(zip(texts, encoded, strict=True)),
        "decoded": [tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in encoded],
        "chats": [_rendered(tokenizer, chat, date) for chat in chats],
        "numbers": {
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "the number of tokens": len(tokenizer),
        },
    }


def _rendered(tokenizer: Any, chat: Any, date: str) -> str | None:
    day = datetime.fromisoformat(date)
    try:
        return tokenizer.apply_chat_template(  # type: ignore[no-any-return]
            chat, add_generation_prompt=True, tokenize=False, strftime_now=day.strftime
        )
    except Exception:  # a template can raise anything; None is compared with the result of this package
        return None


if __name__ == "__main__":
    main()

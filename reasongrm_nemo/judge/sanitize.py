# SPDX-License-Identifier: Apache-2.0
"""Makes untrusted text safe to show to the judge.

An answer may contain `<|im_end|>`, `</think>`, `[[A]]` or the template's delimiters, by accident (code,
transcripts) or to cheat.  Tokenizers turn special tokens anywhere into control tokens, which end the turn;
verdicts and delimiters can make the judge copy a forged verdict or misread where an answer ends.  All of
these are broken up by a space after the first character (`< |im_end|>`, `< /think>`, `[ [A]]`), which is
visible to the judge and in logs, harmless in most code, and safe from normalisers that strip zero-width
characters.  All other text stays unchanged.

This prevents data from *acting as* a verdict or a turn; it cannot prevent a judge from believing the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

CHAT_SPECIAL_TOKENS: tuple[str, ...] = (
    "<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>",
    "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
    "<start_of_turn>", "<end_of_turn>", "<end_of_utterance>",
    "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
)  # fmt: skip
"""Control tokens of common chat formats other than `<|...|>`, which is matched as a pattern."""

ALWAYS = (
    r"<\|[^\s<>|]{1,64}\|>",  # ChatML, Llama 3 and most others
    r"<｜[^\s<>｜]{1,64}｜>",  # DeepSeek
    r"</?think(?:ing)?>",
    r"\[\[[A-Z]\]\]",
)


KINDS = ("control token", "think tag", "verdict", "template delimiter")
"""Kinds of text that `sanitize` breaks up."""


def forgeries(
    text: str, special_tokens: Iterable[str] = CHAT_SPECIAL_TOKENS, tags: Iterable[str] = ()
) -> set[str]:
    """The `KINDS` that `sanitize` would break up in a text; same arguments."""
    tokens = tuple(special_tokens)
    kinds = {"control token"} if any(token in text for token in tokens if len(token) == 1) else set()
    pattern, delimiter = (
        _pattern(tuple(t for t in tokens if len(t) != 1), tuple(tags)),
        _delimiter(tuple(tags)),
    )
    for match in pattern.finditer(text):
        start = match.start()
        if _THINK.match(text, start):
            kinds.add("think tag")
        elif _VERDICT.match(text, start):
            kinds.add("verdict")
        elif delimiter is not None and delimiter.match(text, start):
            kinds.add("template delimiter")
        else:
            kinds.add("control token")
    return kinds


_THINK, _VERDICT = (re.compile(ALWAYS[index], re.IGNORECASE) for index in (2, 3))


@lru_cache(maxsize=64)
def _delimiter(tags: tuple[str, ...]) -> re.Pattern[str] | None:
    return re.compile(_tag_pattern(tags), re.IGNORECASE) if tags else None


def _tag_pattern(tags: tuple[str, ...]) -> str:
    return rf"</?(?:{'|'.join(re.escape(tag) for tag in sorted(tags))})(?!\w)"


@lru_cache(maxsize=64)
def _pattern(special_tokens: tuple[str, ...], tags: tuple[str, ...]) -> re.Pattern[str]:
    literal = sorted({token for token in special_tokens if token}, key=lambda token: (-len(token), token))
    parts = [*ALWAYS, *(re.escape(token) for token in literal)]
    if tags:
        parts.append(_tag_pattern(tags))
    # The look-ahead matches at every position, which also finds overlapping tokens.
    return re.compile(rf"(?=(?:{'|'.join(parts)}))(.)", re.IGNORECASE | re.DOTALL)


def sanitize(text: str, special_tokens: Iterable[str] = CHAT_SPECIAL_TOKENS, tags: Iterable[str] = ()) -> str:
    """Break up control tokens, think tags, bracketed verdicts and the given tags in `text`.

    Args:
        text: a message or an answer.
        special_tokens: the model's special tokens (preferably from its tokenizer), matched
            case-insensitively.  A token of one character is replaced by U+FFFD.
        tags: names of the XML-like delimiters that the template puts around data.
    """
    tokens = tuple(special_tokens)
    single = {token for token in tokens if len(token) == 1}
    for token in single:
        text = text.replace(token, "\N{REPLACEMENT CHARACTER}")
    return _pattern(tuple(t for t in tokens if t not in single), tuple(tags)).sub(r"\1 ", text)

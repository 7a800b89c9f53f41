# SPDX-License-Identifier: Apache-2.0
"""Making text that others wrote safe to show to the judge.

An answer under judgement may hold `<|im_end|>`, `</think>`, `[[A]]` or the template's own delimiters, by
accident (code, transcripts) or to cheat.  Tokenizers turn the special tokens into control tokens wherever
they stand, which ends the turn; the rest invites the judge to copy a forged verdict or to misread where an
answer ends.  Each of these is broken up by one space after its first character (`< |im_end|>`, `< /think>`,
`[ [A]]`): visible to the judge and to whoever reads the logs, harmless to most code, and proof against
normalisers that strip zero-width characters.  Everything else stays as it is.

This keeps the data from *being* a verdict or a turn; it cannot keep a judge from believing what it reads.
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
"""Control tokens of common chat formats beside the `<|...|>` family, which is matched as a pattern."""

ALWAYS = (
    r"<\|[^\s<>|]{1,64}\|>",  # ChatML, Llama 3 and most others
    r"<｜[^\s<>｜]{1,64}｜>",  # DeepSeek
    r"</?think(?:ing)?>",
    r"\[\[[A-Z]\]\]",
)


KINDS = ("control token", "think tag", "verdict", "template delimiter")
"""What `sanitize` breaks up, by kind."""


def forgeries(
    text: str, special_tokens: Iterable[str] = CHAT_SPECIAL_TOKENS, tags: Iterable[str] = ()
) -> set[str]:
    """Which of `KINDS` `sanitize` finds in a text; the arguments are the same."""
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
    # A look-ahead matches at every place, so that a token that overlaps another one is found too.
    return re.compile(rf"(?=(?:{'|'.join(parts)}))(.)", re.IGNORECASE | re.DOTALL)


def sanitize(text: str, special_tokens: Iterable[str] = CHAT_SPECIAL_TOKENS, tags: Iterable[str] = ()) -> str:
    """`text` with control tokens, think tags, bracketed verdicts and the given tags broken up.

    Args:
        text: a message or an answer, as data.
        special_tokens: the model's own special tokens (best taken from its tokenizer), matched whatever
            their case.  A token of one character is replaced by U+FFFD.
        tags: names of XML-like delimiters the template uses around the data.
    """
    tokens = tuple(special_tokens)
    single = {token for token in tokens if len(token) == 1}
    for token in single:
        text = text.replace(token, "\N{REPLACEMENT CHARACTER}")
    return _pattern(tuple(t for t in tokens if t not in single), tuple(tags)).sub(r"\1 ", text)

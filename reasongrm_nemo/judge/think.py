# SPDX-License-Identifier: Apache-2.0
"""The tags around a model's reasoning, and whether a text leaves its reasoning open.

Who writes the opening tag depends on the chat template: QwQ's and DeepSeek-R1's put `<think>` at the end of
the prompt, Qwen3 writes its own, and Qwen2.5 and Llama 3 use no tags.
"""

from __future__ import annotations

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"


def left_open(text: str) -> bool:
    """True if the text opens its reasoning and does not close it.

    Args:
        text: a response; or what a prompt puts before one (the template's opening of the assistant's turn,
            then `judge.response_prefix`).
    """
    return text.rfind(THINK_OPEN) > text.rfind(THINK_CLOSE)


def begun_by(opening: str) -> str:
    r"""What a prompt has written of the reasoning: from its open `<think>` on; empty where none is open.

    Args:
        opening: what the prompt puts before a response, as for `left_open`; of QwQ's it is `<think>\n`.
    """
    return opening[opening.rfind(THINK_OPEN) :] if left_open(opening) else ""


def whole_turn(text: str, begun: str | None) -> str | None:
    """The assistant's turn with its reasoning between one pair of tags; None where there is no such pair.

    A closing tag alone has the opening one put in front: the writer left it out, or its prompt wrote it and
    the file, of an earlier version, does not say so.

    Args:
        text: a response.
        begun: what its prompt had written of the reasoning (`begun_by`); None: not known.
    """
    turn = ((begun or "") + text).lstrip()
    opens, closes = turn.count(THINK_OPEN), turn.count(THINK_CLOSE)
    if closes != 1 or opens > 1:
        return None
    if not opens:
        return f"{THINK_OPEN}\n{turn}"
    return turn if turn.startswith(THINK_OPEN) else None


def rest_of_turn(turn: str, begun: str) -> str:
    """What is left to write of a `whole_turn` after a prompt that has begun it, whoever wrote the turn."""
    if not begun or turn.startswith(begun):
        return turn[len(begun) :]
    reasoning = turn.removeprefix(THINK_OPEN).lstrip()
    return reasoning if begun[-1].isspace() else f"\n{reasoning}"
